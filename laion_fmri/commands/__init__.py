"""What each command does, asks and prints; one module for each kind of command."""
