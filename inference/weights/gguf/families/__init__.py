"""Families of architectures: how their GGUF files name and change what transformers' models have."""
