"""What a run has made, in the forms of other programs; and masks that people corrected, back again."""

from weakclip.tools.annotate.corrected import ImportResult, import_masks
from weakclip.tools.annotate.run_masks import TOOLS, export_masks
from weakclip.tools.export.onnx_graph import OnnxExport, export_onnx
from weakclip.tools.export.transformers_folder import export_transformers

__all__ = [
    "TOOLS",
    "ImportResult",
    "OnnxExport",
    "export_masks",
    "export_onnx",
    "export_transformers",
    "import_masks",
]
