"""Communication graphs of decentralized averaging, one file each: this folder is the list."""
