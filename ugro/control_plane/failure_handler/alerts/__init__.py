"""Alerts: `settings` reads alerts.yaml, `rules` decides what is sent (pure), `sender` sends through apprise, `rounds`
puts these together with the state directory, and `courier` does rounds beside the ticks.
"""

FILE = "alerts.yaml"
"""In the state directory. Without it nothing here does anything, nor is it imported."""
