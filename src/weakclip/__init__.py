"""Images with image-level labels in, pixel masks and a segmentation network out, with a frozen CLIP.

The names in `__all__` are the public API. They are imported when first used (PEP 562), so that `import weakclip` and
`weakclip --help` cost no torch.

>>> import weakclip
>>> weakclip.ClassSet.from_foreground(["cat"]).num_classes
2
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weakclip import clip, crf, datasets, errors, inference, modeling, seeds
    from weakclip.clip import Encoder, FrozenCLIP, FrozenEncoder, ImageFeatures, load_clip
    from weakclip.config import RunConfig, load_config
    from weakclip.crf import CRFParams, Kernel, dense_crf
    from weakclip.datasets import classes
    from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
    from weakclip.errors import WeakCLIPError
    from weakclip.inference import metrics
    from weakclip.inference.metrics import ConfusionMatrix
    from weakclip.modeling import WeakCLIP, WeakCLIPOutput, build_weakclip, load_weakclip, losses, save_weakclip
    from weakclip.pipeline import RunResult, run_pipeline
    from weakclip.pipeline.run import run
    from weakclip.prediction import Prediction, Predictor, PredictSettings, load_predictor

__version__ = "0.1.0"

__all__ = [
    "IGNORE_INDEX",
    "CRFParams",
    "ClassSet",
    "ConfusionMatrix",
    "Encoder",
    "FrozenCLIP",
    "FrozenEncoder",
    "ImageFeatures",
    "Kernel",
    "PredictSettings",
    "Prediction",
    "Predictor",
    "RunConfig",
    "RunResult",
    "WeakCLIP",
    "WeakCLIPError",
    "WeakCLIPOutput",
    "build_weakclip",
    "classes",
    "clip",
    "crf",
    "datasets",
    "dense_crf",
    "errors",
    "inference",
    "load_clip",
    "load_config",
    "load_predictor",
    "load_weakclip",
    "losses",
    "metrics",
    "modeling",
    "run",
    "run_pipeline",
    "save_weakclip",
    "seeds",
]

_HOMES = {
    "datasets.classes": ("IGNORE_INDEX", "ClassSet"),
    "clip": ("Encoder", "FrozenCLIP", "FrozenEncoder", "ImageFeatures", "load_clip"),
    "config": ("RunConfig", "load_config"),
    "crf": ("CRFParams", "Kernel", "dense_crf"),
    "errors": ("WeakCLIPError",),
    "inference.metrics": ("ConfusionMatrix",),
    "modeling": ("WeakCLIP", "WeakCLIPOutput", "build_weakclip", "load_weakclip", "save_weakclip"),
    "pipeline": ("RunResult", "run_pipeline"),
    "pipeline.run": ("run",),
    "prediction": ("PredictSettings", "Prediction", "Predictor", "load_predictor"),
}
_MODULES = {"classes": "datasets.classes", "losses": "modeling.losses", "metrics": "inference.metrics"}
"""Modules that lie in a room; the other names of `__all__` are rooms themselves."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'weakclip' has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), None)
    module = importlib.import_module(f"weakclip.{home or _MODULES.get(name, name)}")
    value = getattr(module, name) if home else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
