"""Handle trainings that hang or fail: watchdog, blame, retry, recovery, alerts."""
