"""Differential privacy: what a release costs, how much noise a target needs, and what was spent."""
