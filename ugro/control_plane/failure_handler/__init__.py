"""What happens when a training does not go on as it should: watchdog, blame, retry, recovery, alerts."""
