"""Tasks to begin with: each runs by one command from the folder above, and downloads nothing."""
