"""What happens when a training does not go on as it should: the watchdog, and how far a log got."""
