"""Decentralized averaging as mathematics: graphs, mixing matrices, algorithms. Arrays in, arrays out."""
