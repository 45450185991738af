"""The decoders, which compute a batch: transformers' model, few operators of torch, C++, or kernels of Triton.

`decoder` is the interface, and `select` chooses: the fastest one that gives the model's own logits (`start_check`).

    any model           `transformers_decoder`; `packed_modules` and `compilation` make it faster;
                        `stateful_decoder` where layers keep states
    Llama-type models   `torch_decoder`, `native` in C++, `gpu` in Triton
    products            `linear`, for both in torch
    on a GPU            `cuda_graphs` launch a step in one call, and the next one is begun `ahead`
"""
