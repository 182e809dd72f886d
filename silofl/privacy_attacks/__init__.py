"""Attacks on privacy, on what others really see of a run: gradient inversion, trap weights, membership."""
