"""Every rank keeps its own state: one folder a round, one file a silo, committed in two phases."""
