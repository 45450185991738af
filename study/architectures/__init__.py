"""Which architectures of transformers the engine serves: tried, one by one, on small random checkpoints."""
