"""One page about a run: a pure function of the run folder, self-contained and readable offline."""

from weakclip.report.folder import STAGE_FOLDERS, Curves, PictureRow, RunSummary, StageSummary, read_run
from weakclip.report.images import CAPTIONS, PREDICTIONS, STRIPS, RunImages, Strips, read_images, strip_path
from weakclip.report.page import render_report, write_report

__all__ = [
    "CAPTIONS",
    "PREDICTIONS",
    "STAGE_FOLDERS",
    "STRIPS",
    "Curves",
    "PictureRow",
    "RunImages",
    "RunSummary",
    "StageSummary",
    "Strips",
    "read_images",
    "read_run",
    "render_report",
    "strip_path",
    "write_report",
]
