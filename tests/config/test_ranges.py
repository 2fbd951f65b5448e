"""Settings out of range are refused in one line that names them, whatever the class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import ConfigError
from weakclip.inference.proposals import ProposalSettings
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.inference.region_judge import RegionBankSettings
from weakclip.inference.windows import InferenceSettings
from weakclip.modeling.train import LossSettings
from weakclip.seeds.affinitynet.refine import RandomWalkSettings
from weakclip.seeds.affinitynet.train import AffinitySettings
from weakclip.seeds.base import SeedSettings
from weakclip.seeds.clip_gradcam import GradCAMSettings
from weakclip.seeds.cosine import CosineSettings
from weakclip.seeds.mctformer.augmentation import DeiTAugmentSettings
from weakclip.seeds.mctformer.cam import MCTformerCAMSettings
from weakclip.seeds.mctformer.model import MCTformerModelSettings
from weakclip.seeds.mctformer.train import MCTformerSettings
from weakclip.seeds.patch_text import PatchTextSettings
from weakclip.tools.tag.zero_shot import TagSettings

WRONG: Mapping[type, list[dict[str, Any]]] = {
    AugmentSettings: [
        *({"crop_size": 0}, {"scale": (2.0, 0.5)}, {"scale": (0.0, 1.0)}, {"flip": 1.5}, {"max_class_share": 0.0}),
        *({"hsv_shift": 10}, {"hsv_shift": -1}),
    ],
    InferenceSettings: [
        *({"scales": ()}, {"scales": (1.0, 0.0)}, {"stride": 0}, {"stride": 341, "crop": 300}, {"batch_size": 0}),
    ],
    PseudoMaskSettings: [{"temperature": 0.0}, {"balance": -1.0}, {"match_share": 1.5}, {"match_share": -0.1}],
    LossSettings: [{"size": 0}, {"matching_weight": -1.0}],
    SeedSettings: [{"background_power": -1.0}, {"foreground_confidence": 1.5}, {"background_confidence": -0.1}],
    GradCAMSettings: [{"prompt_template": "a cat"}, {"attention_layers": 0}, {"box_threshold": 2.0}, {"scale": 0.0}],
    CosineSettings: [{"prompt_templates": ()}, {"prompt_templates": ("a cat",)}, {"scale": 0.0}],
    PatchTextSettings: [
        *({"prompt_templates": ()}, {"prompt_templates": ("{} here", "a cat")}, {"attention": ()}, {"scale": ()}),
        *({"scale": 0.0}, {"scale": (1.0, 0.0)}, {"scale": (1.0, math.nan)}, {"layers": 0}, {"attention_layers": 0}),
        *({"batch_size": 0}, {"box_threshold": 1.5}, {"attribute_centers": 0}, {"attribute_centers": 2000}),
        {"attribute_scale": -1.0},
    ],
    RandomWalkSettings: [{"beta": 0.0}, {"log_steps": -1}, {"log_steps": 17}, {"background": -1.0}],
    AffinitySettings: [{"radius": 1}],
    DeiTAugmentSettings: [
        *({"crop_size": 0}, {"area": (0.0, 1.0)}, {"area": (0.5, 0.4)}, {"flip": 2.0}, {"magnitude": 11.0}),
        {"operations": -1},
    ],
    MCTformerCAMSettings: [{"scales": ()}, {"scales": (1.0, 0.0)}, {"attention_layers": 0}],
    MCTformerModelSettings: [{"depth": 0}, {"heads": 5}, {"drop_path": 1.0}, {"rank_decay": 1.1}],
    MCTformerSettings: [{"contrast_weight": -1.0}],
    TagSettings: [{"threshold": 1.5}, {"batch_size": 0}],
}
"""Of each class: settings that are refused by the name of the first one."""

TOLD: list[tuple[type, dict[str, Any], str]] = [
    (AffinitySettings, {"widths": (4, 4)}, "widths: 7 whole numbers"),
    (AffinitySettings, {"widths": (4, 4, 8, 8, 16, 18, 32)}, "multiples of 2, 4 and 4"),
    (AffinitySettings, {"reductions": (4, 4, 0)}, "reductions: 3 whole numbers"),
    (AffinitySettings, {"augment": AugmentSettings(crop_size=100)}, "crop_size"),
    (MCTformerSettings, {"augment": DeiTAugmentSettings(crop_size=100)}, "crop_size"),
    (MCTformerSettings, {"pretrained": "a", "checkpoint": "b"}, "pretrained and checkpoint"),
    (TagSettings, {"prompt_template": "cat"}, "has to hold"),
    (RegionBankSettings, {"neighbours": 0}, "1 or more neighbours"),
    (RegionBankSettings, {"agreement": 0.4}, r"an agreement of 0\.5 or more"),
    (ProposalSettings, {}, "proposals: either a folder or a segmenter expected"),
    (ProposalSettings, {"folder": "a", "segmenter": "b"}, "proposals: either a folder or a segmenter expected"),
]
"""Settings that are refused in other words."""


@pytest.mark.parametrize(
    ("kind", "wrong", "told"),
    [*((kind, wrong, next(iter(wrong))) for kind, each in WRONG.items() for wrong in each), *TOLD],
)
def test_settings_out_of_range_are_refused_by_name(kind: type, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        kind(**wrong)
    assert "\n" not in str(error.value)
