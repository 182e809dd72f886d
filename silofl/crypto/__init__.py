"""Keys, secret sharing and the secure sums as pure functions of one party; nothing here knows of ranks."""
