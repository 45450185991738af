"""Benchmarks, comparisons and simulations, and the code that they share with the lessons and the tests (`common`)."""
