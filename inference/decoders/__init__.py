"""The decoders, which compute a batch: transformers' model, few operators of torch, C++, or kernels of Triton.

`decoder` is the interface, and `select` chooses: the fastest one that gives the model's own logits (`start_check`).
"""
