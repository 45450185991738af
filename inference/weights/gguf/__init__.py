"""Models in GGUF files, llama.cpp's format: read, translated into what transformers has, and loaded."""
