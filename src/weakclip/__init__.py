"""Images with image-level labels in, pixel masks and a segmentation network out, with a frozen CLIP.

The names below are the public API. They are imported when first used (PEP 562), so that `import weakclip` and
`weakclip --help` cost no torch.

>>> import weakclip
>>> weakclip.ClassSet.from_foreground(["cat"]).num_classes
2
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "CRFParams": "weakclip.crf",
    "ClassSet": "weakclip.classes",
    "ConfusionMatrix": "weakclip.metrics",
    "FrozenCLIP": "weakclip.clip",
    "IGNORE_INDEX": "weakclip.classes",
    "ImageFeatures": "weakclip.clip",
    "Kernel": "weakclip.crf",
    "RunConfig": "weakclip.config",
    "RunResult": "weakclip.pipeline",
    "WeakCLIP": "weakclip.modeling",
    "WeakCLIPError": "weakclip.errors",
    "WeakCLIPOutput": "weakclip.modeling",
    "build_weakclip": "weakclip.modeling",
    "dense_crf": "weakclip.crf",
    "load_clip": "weakclip.clip",
    "load_config": "weakclip.config",
    "load_weakclip": "weakclip.modeling",
    "run_pipeline": "weakclip.pipeline",
    "save_weakclip": "weakclip.modeling",
}
_MODULES = ("classes", "clip", "crf", "datasets", "errors", "inference", "losses", "metrics", "modeling", "seeds")

__all__ = [  # noqa: PLE0604 - the lists above are the one place that names are written
    "__version__",
    *_EXPORTS,
    *_MODULES,
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"weakclip.{name}")
    else:
        raise AttributeError(f"module 'weakclip' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from weakclip import classes, clip, crf, datasets, errors, inference, losses, metrics, modeling, seeds
    from weakclip.classes import IGNORE_INDEX, ClassSet
    from weakclip.clip import FrozenCLIP, ImageFeatures, load_clip
    from weakclip.config import RunConfig, load_config
    from weakclip.crf import CRFParams, Kernel, dense_crf
    from weakclip.errors import WeakCLIPError
    from weakclip.metrics import ConfusionMatrix
    from weakclip.modeling import WeakCLIP, WeakCLIPOutput, build_weakclip, load_weakclip, save_weakclip
    from weakclip.pipeline import RunResult, run_pipeline
