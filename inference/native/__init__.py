"""A decoder step in C++, for the models that most people serve: Llama, Mistral, Qwen2 and Qwen3.

`decoder.cpp` computes a step, `build.py` compiles it at the start, `decoder.py` packs a model's weights and calls it.
"""
