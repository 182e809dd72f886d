"""Pruning: which weights of the global model stay, for all silos; one file a rule, and its file's name is its name."""
