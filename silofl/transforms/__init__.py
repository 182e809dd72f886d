"""Transforms of vectors around a sum: what a silo does to each slice before it is added up, and its inverse."""
