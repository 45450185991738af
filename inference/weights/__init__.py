"""A model out of its files.

`locate` finds them, on the disk or on the `hub`; a `folder` and a file of `gguf` answer the same questions; and
`checkpoint` makes one structure of the answers. `llama` is the neutral form that the fast decoders compute from.
"""
