"""The run: ranks meet, rounds follow, results are written."""
