"""Weights from and for PyTorch's state dicts, without PyTorch. You can understand the library without reading this."""
