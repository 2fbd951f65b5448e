"""One page about a run: a pure function of the run folder, self-contained and readable offline."""

from weakclip.report.folder import Curves, PictureRow, RunSummary, StageSummary, read_run
from weakclip.report.images import RunImages, Strips, read_images
from weakclip.report.page import render_report, write_report

__all__ = [
    "Curves",
    "PictureRow",
    "RunImages",
    "RunSummary",
    "StageSummary",
    "Strips",
    "read_images",
    "read_run",
    "render_report",
    "write_report",
]
