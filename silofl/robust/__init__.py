"""Robust rules: what takes the place of a mean where some silos may send anything, one file each."""
