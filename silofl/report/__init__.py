"""What a run shows: lines, a live table, event files."""
