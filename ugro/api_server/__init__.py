"""HTTP over the service layer."""
