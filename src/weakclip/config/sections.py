"""What a run is told: one section for each part, composed of dataclasses that live beside their owners."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from weakclip.crf import VOC_CRF, CRFParams
from weakclip.datasets import AugmentSettings
from weakclip.errors import ConfigError
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.inference.windows import InferenceSettings
from weakclip.modeling import ModelSettings
from weakclip.modeling.train import LossSettings
from weakclip.seeds import CosineSettings, GradCAMSettings, PatchTextSettings, SeedSettings
from weakclip.seeds.affinitynet.train import AffinitySettings
from weakclip.seeds.mctformer.train import MCTformerSettings
from weakclip.segmenters.train import RetrainSettings
from weakclip.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images a run is about.

    Args:
        dataset: "scenes" (drawn by the package), "voc12", "coco14" or "folder".
        root: the data set's folder; relative to where the command is run. None for scenes.
        train_split: the split that masks are made for, and that the network is retrained on.
        val_split: the split that the network is scored on; None where there is none.
        train_limit: only the first so many images of the training split; None for all.
        val_limit: the same for the validation split.
        scene_size: side of the drawn images, pixels; for scenes alone.
        scene_seed: another seed draws other images; for scenes alone.
        class_file: the classes, where they are not in the folder's own `classes.yaml`; for a folder alone.
        label_file: the labels, where they are not in the folder's own `labels.csv`; for a folder alone.
        longest_side: larger images are read, and their masks made, with so many pixels along their longer side; None
            keeps every size; for a folder alone.
        marks: a `marks.jsonl` of `weakclip review`, for instance another run's; the marks in the run's own folder come
            on top of it. None for those alone.
        on_error: "stop" ends the run at a file that cannot be used; "skip" leaves out images that cannot be read, or
            whose labels or imported seeds are broken, and lists them in `errors.jsonl`.
    """

    dataset: Literal["scenes", "voc12", "coco14", "folder"]
    root: str | None = None
    train_split: str = "train"
    val_split: str | None = "val"
    train_limit: int | None = None
    val_limit: int | None = None
    scene_size: int = 128
    scene_seed: int = 0
    class_file: str | None = None
    label_file: str | None = None
    longest_side: int | None = None
    marks: str | None = None
    on_error: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if (self.root is None) != (self.dataset == "scenes"):
            raise ConfigError(f"root: the folder of {self.dataset}, and null for scenes, expected; found {self.root!r}")
        for name in ("class_file", "label_file", "longest_side"):
            if self.dataset != "folder" and getattr(self, name) is not None:
                raise ConfigError(f"{name}: null expected for {self.dataset}; it is for a folder alone")
        for name in ("train_limit", "val_limit", "longest_side"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ConfigError(f"{name}: 1 or more, or null, expected; found {limit}")


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """Which frozen CLIP.

    Args:
        source: "demo", a folder in transformers' format, an OpenAI `.pt` archive, or an id on the Hugging Face hub; or
            `python:MODULE:FUNCTION`, code of one's own that makes an encoder: see `weakclip.clip.load_encoder`.
        vocabulary: where the tokenizer comes from if `source` has none; None otherwise.
    """

    source: str = "openai/clip-vit-base-patch16"
    vocabulary: str | None = None


@dataclass(frozen=True, kw_only=True)
class SeedStageSettings:
    """Where the seeds come from.

    Args:
        method: "patch_text" and "clip_gradcam" make them from the frozen CLIP, without and with a gradient; "cosine"
            from any encoder; "mctformer" trains an MCTformer+ on the labels first, or takes a trained one;
            "imported_cams" and "imported_masks" read a folder; "own" is an object that `run_pipeline` is given.
        folder: for imported seeds, the folder with one file an image; None otherwise.
        first_class: for imported CAMs, the number that their files give to the first foreground class: 0 or 1.
        gradcam: how "clip_gradcam" makes its maps.
        patch_text: how "patch_text" makes its maps.
        cosine: how "cosine" makes its maps.
        mctformer: which MCTformer+, how it is trained, and how its maps are made.
        affinity: an AffinityNet that is trained on the maps and spreads them; None for none. `background_power` of its
            walk then takes the place of that of `masks`.
        masks: how class activation maps become seed masks.
    """

    method: Literal["patch_text", "clip_gradcam", "cosine", "mctformer", "imported_cams", "imported_masks", "own"] = (
        "clip_gradcam"
    )
    folder: str | None = None
    first_class: int = 0
    gradcam: GradCAMSettings = field(default_factory=GradCAMSettings)
    patch_text: PatchTextSettings = field(default_factory=PatchTextSettings)
    cosine: CosineSettings = field(default_factory=CosineSettings)
    mctformer: MCTformerSettings = field(default_factory=MCTformerSettings)
    affinity: AffinitySettings | None = None
    masks: SeedSettings = field(default_factory=SeedSettings)

    def __post_init__(self) -> None:
        imported = self.method.startswith("imported_")
        if imported != (self.folder is not None):
            expected = "the folder of the imported seeds" if imported else "null"
            raise ConfigError(f"folder: {expected} expected for {self.method}; found {self.folder!r}")
        if self.first_class not in (0, 1):
            raise ConfigError(f"first_class: 0 or 1 expected; found {self.first_class}")
        if self.method == "imported_masks" and self.affinity is not None:
            raise ConfigError(
                "affinity: null expected for imported_masks, which are no activation maps; found settings"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """How the retrained network predicts; for WeakCLIP, `pseudo_masks` says it.

    Args:
        inference: scales, flip and windows.
        crf: dense CRF on its predictions, which are scored without it, too; None for none.
        pictures: rows of the report's picture sheet, of either split.
    """

    inference: InferenceSettings = field(default_factory=InferenceSettings)
    crf: CRFParams | None = VOC_CRF
    pictures: int = 8

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise ConfigError(f"pictures: 0 or more expected; found {self.pictures}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes.

    Args:
        data: the images.
        clip: the frozen CLIP.
        seeds: where the seeds come from.
        model: the numbers of WeakCLIP.
        augment: the augmentation of WeakCLIP's training.
        loss: WeakCLIP's loss.
        train: how WeakCLIP is trained on the seeds.
        pseudo_masks: how its predictions become masks.
        retrain: which network is trained on those masks, and how.
        evaluate: how that network predicts.
        seed: of everything random.
        device: "auto" takes an accelerator where there is one; "cpu", or a torch device name.
    """

    data: DataSettings
    clip: ClipSettings = field(default_factory=ClipSettings)
    seeds: SeedStageSettings = field(default_factory=SeedStageSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    pseudo_masks: PseudoMaskSettings = field(default_factory=PseudoMaskSettings)
    retrain: RetrainSettings = field(default_factory=RetrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed: a whole number from 0 to 2³² − 1 expected; found {self.seed}")


def limit_training(config: RunConfig, steps: int) -> RunConfig:
    """The same run with at most `steps` steps in each training that it holds, and warm-ups that fit."""

    def limited(settings: TrainSettings) -> TrainSettings:
        count = min(steps, settings.steps)
        return dataclasses.replace(settings, steps=count, warmup_steps=min(settings.warmup_steps, count))

    retrain = dataclasses.replace(config.retrain, train=limited(config.retrain.train))
    seeds = config.seeds
    if seeds.method == "mctformer":
        mctformer = dataclasses.replace(seeds.mctformer, train=limited(seeds.mctformer.train))
        seeds = dataclasses.replace(seeds, mctformer=mctformer)
    if seeds.affinity is not None:
        affinity = dataclasses.replace(seeds.affinity, train=limited(seeds.affinity.train))
        seeds = dataclasses.replace(seeds, affinity=affinity)
    return dataclasses.replace(config, train=limited(config.train), retrain=retrain, seeds=seeds)
