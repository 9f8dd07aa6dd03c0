"""The account that UGRO logs in to: its authorized_keys, and what decides whether sshd uses them."""
