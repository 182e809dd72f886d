"""Pruning: which weights of the global model are left, in all silos the same; one file each."""
