"""Many clients within one silo: which records are whose, which clients are drawn, and what they learn."""
