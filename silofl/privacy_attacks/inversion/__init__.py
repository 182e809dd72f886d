"""Gradient inversion: from a gradient to the examples that it is of, one file an attack."""
