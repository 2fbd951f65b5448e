"""What a run has made, in the forms of other programs; and masks that people corrected, back again."""

from weakclip.export.corrected import ImportResult, import_masks
from weakclip.export.run_masks import TOOLS, export_masks

__all__ = ["TOOLS", "ImportResult", "export_masks", "import_masks"]
