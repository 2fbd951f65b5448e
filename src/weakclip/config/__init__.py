"""The configuration of a run: `RunConfig`, read from YAML."""

from weakclip.config.data import (
    AnyData,
    COCO14Data,
    DataSettings,
    FolderData,
    OwnData,
    ScenesData,
    StoredData,
    VOC12Data,
)
from weakclip.config.layers import config_path, shipped_configs
from weakclip.config.reading import (
    changed_settings,
    dump_config,
    explain_config,
    load_config,
    load_crf,
    load_run_config,
    parse_config,
)
from weakclip.config.sections import ClipSettings, EvaluateSettings, RunConfig, limit_training
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
    SeedStageSettings,
)

__all__ = [
    "AnyData",
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
    "SeedStageSettings",
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
