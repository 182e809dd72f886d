"""Attacks for rehearsal: what some silos of a run do wrong, on purpose, one file each."""
