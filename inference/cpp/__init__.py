"""Compiles C++ for the processor at hand, for `decoders` and `sampling` (`build`, in a `scratch_folder`), and keeps the
libraries for the next start (`library_cache`).
"""
