"""A run's networks in the forms of other programs."""

from weakclip.tools.export.onnx_graph import OnnxExport, export_onnx
from weakclip.tools.export.transformers_folder import export_transformers

__all__ = ["OnnxExport", "export_onnx", "export_transformers"]
