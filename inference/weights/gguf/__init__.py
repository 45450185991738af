"""Models in GGUF files, llama.cpp's format: read, translated into what transformers has, and loaded.

`source` answers the same questions as a folder does. The modules, by topic:

    a file         `file` opens one, of several `parts` perhaps, and `ahead` keeps it open; `keys` refuses metadata that
                   is not read here
    a model        `architectures` is the table of those that are served, whose rows (`architecture`) are in `families`;
                   `unserved` says why others are not; `configuration` makes a model's config, with the `rope` of its
                   positions
    a vocabulary   `tokenizer`, with the rules of `splits`
    weights        `weights` for a model of transformers, from `numbers`; `llama` in quantized blocks, for models that
                   `heads` knows; `fused` takes queries, keys and values apart
"""
