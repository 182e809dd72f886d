"""Differential privacy of a run: what each release costs, what may still be released, what is promised."""
