"""Training of a network: options, the loop, its log, its stops and its checkpoints."""
