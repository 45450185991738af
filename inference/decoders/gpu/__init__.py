"""Llama-type models on a GPU, in kernels of Triton (`kernels`).

`decoder` computes a batch with them, `graphs` replays its decode steps as CUDA graphs, and `chooser` draws tokens.
"""
