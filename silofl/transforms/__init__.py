"""Transforms of vectors around a sum: what is done to each slice before, and undone after."""
