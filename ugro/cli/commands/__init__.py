"""Commands by subject: options become requests, answers become text."""
