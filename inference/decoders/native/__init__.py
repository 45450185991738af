"""A decoder step in C++, for the models that most people serve: Llama, Mistral, Qwen2 and Qwen3.

`decoder.cpp` and its headers compute a step, `build.py` compiles them at the start, `decoder.py` packs a
model's weights and calls the step.
"""
