"""One page about a run: a pure function of the run folder, self-contained and readable offline."""

from weakclip.report.folder import read_run
from weakclip.report.images import read_images
from weakclip.report.page import render_report, write_report

__all__ = ["read_images", "read_run", "render_report", "write_report"]
