"""The OpenAI API: its errors, its models, and its three ways of asking for text.

Every endpoint has a module with its request and its call; the types of its answers and the writer of its stream stand
in modules of their own. A whole answer and a stream are made by the same code, so joining the deltas of the one gives
the other.

Source: the OpenAI API reference; extra fields are those of vLLM.
"""
