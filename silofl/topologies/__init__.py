"""Topologies: how silos' contributions become the next shared vectors."""
