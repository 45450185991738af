"""The engine's parts: one noun, one file, one owner. `engine.py` puts them together.

`request.py` is the only part that other rooms import: it holds what goes into an engine and what comes out, and
needs no torch.
"""
