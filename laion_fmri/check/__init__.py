"""What is on disk, compared with the bucket: verify, repair, remove."""
