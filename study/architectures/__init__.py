"""Tries which architectures of transformers the engine serves, on small random checkpoints."""
