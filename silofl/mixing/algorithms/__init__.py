"""Algorithms of decentralized learning, one file each: this folder is the list."""
