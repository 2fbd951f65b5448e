"""Studies: what a setting is worth, measured on a data set whose masks are known."""

from weakclip.study.crf import study_crf
from weakclip.study.record import Candidate, CRFStudy

__all__ = ["CRFStudy", "Candidate", "study_crf"]
