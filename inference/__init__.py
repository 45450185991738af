"""The engine's parts: one noun, one file, one owner. `engine.py` puts them together.

`scheduling` needs no torch, and decides what a step works on; `cache`, `decoders` and `sampling` compute it. `weights`
brings a model from its files, and `text` turns requests into token ids and token ids into answers.
"""
