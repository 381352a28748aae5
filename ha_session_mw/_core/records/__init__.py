"""What the records of a store hold: session data, and log-ins."""
