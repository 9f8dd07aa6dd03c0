"""First contact with a machine where no key of ours is known: log in with what its owner types, and install the key.

    first_login.py   one connection over Fabric that accepts the pinned host key alone, as a transport
    methods.py       the ways to log in that the machine asks for, one after the other
    own_key.py       the key that is installed: one of the user's, or a new one
    causes.py        why a key login still fails, from what the machine shows (pure)

Only this room imports Fabric and paramiko, and only when a password has to be typed.
"""
