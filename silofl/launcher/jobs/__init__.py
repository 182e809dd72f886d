"""Jobs of queues: their texts, pure functions of typed options, and their submission."""
