"""Membership inference: whether a record was in the training data of a model, one file an attack."""
