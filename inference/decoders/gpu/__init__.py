"""Llama-type models on a GPU: kernels of Triton, the decoder that calls them, and its decode steps as CUDA graphs."""
