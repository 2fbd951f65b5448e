"""Masks of a run as annotations, and masks that people corrected, back again."""

from weakclip.tools.annotate.corrected import ImportResult, import_masks
from weakclip.tools.annotate.run_masks import TOOLS, export_masks
from weakclip.tools.annotate.verify import Agreement, VerifyResult, verify_masks

__all__ = ["TOOLS", "Agreement", "ImportResult", "VerifyResult", "export_masks", "import_masks", "verify_masks"]
