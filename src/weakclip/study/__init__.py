"""Studies: what a setting is worth, measured on a data set whose masks are known; and what a training step costs."""

from weakclip.study.crf import study_crf
from weakclip.study.numbers import study_prompts, study_temperature
from weakclip.study.parts import study_parts
from weakclip.study.record import Candidate, CRFStudy
from weakclip.study.results import Result, VariantStudy
from weakclip.study.snapshots import study_snapshots

__all__ = [
    "CRFStudy",
    "Candidate",
    "Result",
    "VariantStudy",
    "study_crf",
    "study_parts",
    "study_prompts",
    "study_snapshots",
    "study_temperature",
]
