"""`silofl bench`: every figure beside its reference, measured in one run."""
