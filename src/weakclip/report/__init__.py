"""One page about a run: a pure function of the run folder, self-contained and readable offline."""

from weakclip.report.folder import STAGE_FOLDERS, Curves, PictureRow, RunSummary, StageSummary, read_run
from weakclip.report.page import render_report, write_report

__all__ = [
    "STAGE_FOLDERS",
    "Curves",
    "PictureRow",
    "RunSummary",
    "StageSummary",
    "read_run",
    "render_report",
    "write_report",
]
