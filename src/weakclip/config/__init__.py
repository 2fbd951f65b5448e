"""The configuration of a run: `RunConfig`, read from YAML.

The names in `__all__` are imported when first used (PEP 562): which file a configuration is, is told without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weakclip.config.clip_settings import ClipSettings
    from weakclip.config.data import (
        COCO14Data,
        DataSettings,
        FolderData,
        OwnData,
        ScenesData,
        StoredData,
        VOC12Data,
    )
    from weakclip.config.reading import (
        changed_settings,
        dump_config,
        explain_config,
        load_config,
        load_crf,
        load_run_config,
        parse_config,
    )
    from weakclip.config.sections import EvaluateSettings, RunConfig, limit_training
    from weakclip.config.seeds import (
        AnySeeds,
        CAMSeeds,
        ClipGradCAMSeeds,
        CosineSeedSettings,
        ImportedCAMSeeds,
        ImportedMaskSeeds,
        MCTformerSeeds,
        OwnSeeds,
        PatchTextSeeds,
    )
    from weakclip.config.shipped import config_path, shipped_configs

__all__ = [
    "AnySeeds",
    "CAMSeeds",
    "COCO14Data",
    "ClipGradCAMSeeds",
    "ClipSettings",
    "CosineSeedSettings",
    "DataSettings",
    "EvaluateSettings",
    "FolderData",
    "ImportedCAMSeeds",
    "ImportedMaskSeeds",
    "MCTformerSeeds",
    "OwnData",
    "OwnSeeds",
    "PatchTextSeeds",
    "RunConfig",
    "ScenesData",
    "StoredData",
    "VOC12Data",
    "changed_settings",
    "config_path",
    "dump_config",
    "explain_config",
    "limit_training",
    "load_config",
    "load_crf",
    "load_run_config",
    "parse_config",
    "shipped_configs",
]

_HOMES = {
    "clip_settings": ("ClipSettings",),
    "reading": (
        *("changed_settings", "dump_config", "explain_config", "load_config", "load_crf", "load_run_config"),
        "parse_config",
    ),
    "sections": ("EvaluateSettings", "RunConfig", "limit_training"),
    "shipped": ("config_path", "shipped_configs"),
    "data": tuple(name for name in __all__ if name.endswith("Data") or name == "DataSettings"),
}
"""Names that are in another module than `seeds`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'weakclip.config' has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "seeds")
    value = getattr(importlib.import_module(f"weakclip.config.{home}"), name)
    globals()[name] = value
    return value
