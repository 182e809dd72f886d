"""Trap weights: models that make a sum of updates carry single examples, one file a kind."""
