"""How each silo comes to a model of its own, beside the one that all share or instead of a part of it."""
