"""What is drawn: progress while something runs, and the status page."""
