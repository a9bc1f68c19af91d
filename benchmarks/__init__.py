"""Compares the speed of fnn, PyTorch and JAX (`python -m benchmarks`), and profiles fnn (`benchmarks.profile`)."""
