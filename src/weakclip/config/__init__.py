"""The configuration of a run: `RunConfig`, read from YAML."""

from weakclip.config.reading import (
    changed_settings,
    config_path,
    dump_config,
    flat,
    load_config,
    load_crf,
    parse_config,
    plain,
    shipped_configs,
)
from weakclip.config.sections import (
    ClipSettings,
    DataSettings,
    EvaluateSettings,
    RunConfig,
    SeedStageSettings,
    limit_training,
)

__all__ = [
    "ClipSettings",
    "DataSettings",
    "EvaluateSettings",
    "RunConfig",
    "SeedStageSettings",
    "changed_settings",
    "config_path",
    "dump_config",
    "flat",
    "limit_training",
    "load_config",
    "load_crf",
    "parse_config",
    "plain",
    "shipped_configs",
]
