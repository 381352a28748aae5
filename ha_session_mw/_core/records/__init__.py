"""The contents of a store's records: session data and log-ins."""
