"""Nets as ONNX files, for whatever runs those."""

from fnn.onnx.model import export

__all__ = ["export"]
