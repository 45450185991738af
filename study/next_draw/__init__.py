"""A kernel that draws a step's tokens on a GPU, and may follow the engine's own: it has run on no GPU yet.

    draw.py     the kernel, and the choice of a token from what is kept
    limits.py   what top_k and top_p keep

`make test-kernels` tests it as it does the engine's own, and `python -m study.benchmarks.bench_draw --next` measures
both on a GPU. docs/notebook.md says what is expected of it.
"""
