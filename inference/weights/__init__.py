"""Loads a model from its files.

`locate` finds them, on the disk or on the `hub`; `folder` and `gguf` read the two kinds of them behind one interface;
`checkpoint` loads a model through it. `llama` is the neutral form of the weights that the fast decoders compute from.
"""
