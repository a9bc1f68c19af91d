"""How fast fnn is beside PyTorch and JAX (`python -m benchmarks`), and where its time goes (`benchmarks.profile`)."""
