"""The bucket, and the only code that talks to the network."""
