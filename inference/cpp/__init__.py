"""Compiles C++ for the processor at hand, for `decoders` and `sampling`, and keeps the libraries for the next start."""
