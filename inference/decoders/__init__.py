"""What computes a batch: the model of transformers, the same in few operators of torch, or a step in C++.

`decoder` is the interface, and `select` chooses: the fastest one that gives the model's own logits (`start_check`).
"""
