"""The data directory, and our own state in it."""
