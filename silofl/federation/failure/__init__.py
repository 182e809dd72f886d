"""Failure in a run: who is there, when the others go on, and how a silo comes back."""
