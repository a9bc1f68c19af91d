"""`export` writes a net as an ONNX file for other runtimes. You can understand the library without reading it."""

from fnn.onnx.model import export

__all__ = ["export"]
