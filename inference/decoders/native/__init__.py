"""A decoder step in C++, for the models that most people serve: Llama, Mistral, Qwen, Gemma, and what is like them.

`decoder.cpp` and its headers compute a step. `sources.py` says what they are compiled with, which `inference.cpp` does
at the start; `decoder.py` hands them a model's weights and calls the step.

    weights     `packing` lays them out in `large_pages`
    structures  `structures`: those that Python and C++ share; `scratch`: the memory that a step works in
    a check     `trial` of the products with quantized matrices
"""
