"""Loggers of other programs: where a run's numbers go beside its own files, one file each."""
