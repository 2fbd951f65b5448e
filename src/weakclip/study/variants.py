"""The engine of the studies that train: variants of WeakCLIP on the same seeds, several random seeds, scored masks.

    out/seeds/seed_N/                       stage 1, a run folder of its own, shared by all variants
    out/variants/NAME/seed_N/               checkpoint.safetensors, log.jsonl and masks/ of one variant
    out/study.json                          what is finished; written whole after every variant and random seed

What is in `study.json` is never made again. An unfinished training goes on from its checkpoint, unfinished masks from
the last one written.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from weakclip.clip import Encoder
from weakclip.config import AnySeeds, RunConfig
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError, DataError
from weakclip.inference.evaluation import score_masks
from weakclip.inference.mask_writing import mask_steps, work_on_masks
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.modeling import ModelSettings, WeakCLIP, mixed_logits
from weakclip.modeling.train import WeakCLIPLoss
from weakclip.pipeline import run_stage
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.networks import on_the_encoder
from weakclip.pipeline.proposal_files import with_proposals
from weakclip.pipeline.region_stage import region_judge
from weakclip.pipeline.stages import stages_of
from weakclip.store.keys import ResultKey, result_settings
from weakclip.store.layout import DENSE, MASKS, SEED_MASKS, STAGE_FOLDERS
from weakclip.study.record import study_folder
from weakclip.study.results import Result, VariantStudy, finished_results, measured
from weakclip.study.variant_pages import write_variant_pages
from weakclip.training.dataset import TrainingPairs
from weakclip.training.loop import fit

Composer = Callable[[ModelSettings, Encoder, ClassSet], WeakCLIP]
"""From the numbers, the encoder and the classes to a model with fresh weights."""

SEEDS_ROW = "seeds"
"""The row that says what the seeds themselves are worth."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to make pseudo masks.

    Args:
        name: its row in the table, and its folder.
        config: its settings.
        compose: how its model is put together; `build_weakclip` with the numbers of `config.model` where not given.
        trained_as: the variant whose training it shares, where only the masks are made in another way.
        seeds_only: whether it makes and scores seeds of its own, and trains nothing.
    """

    name: str
    config: RunConfig
    compose: Composer = ModelSettings.build
    trained_as: str | None = None
    seeds_only: bool = False


def study_variants(
    config: RunConfig, out: Path | str, subject: str, variants: Sequence[Variant], *, seeds: int
) -> VariantStudy:
    """Train every variant for every random seed, make its pseudo masks, and score them on the training split.

    Args:
        config: data set, CLIP and all that the variants have in common; its `seed` is the first random seed.
        out: the study's folder; a study of the same settings and data that is there already is continued, also with
            more variants or random seeds.
        subject: what is studied, in words.
        variants: what is compared; names are unique.
        seeds: how many random seeds.

    Raises:
        ConfigError: variants that share a name.
        RunError: `out` holds something else, or another process works there.
        DataError: the training split has no true masks to score against, or a variant whose prompt is too long.
        WeakCLIPError: as the stages of a run; what was finished before stays.
    """
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise ConfigError(f"every value is studied once; found {', '.join(names)}")
    context = RunContext(config, Path(out), trusted=True)
    if not context.train.has_masks:
        raise DataError(
            f"split {context.train.split!r} has no true masks to score on; name another one: data.train_split"
        )
    for each in variants:  # what cannot be put together says so before anything is made
        each.compose(each.config.model, context.clip, context.train.class_set)
    key = _study_key(context, subject)
    with study_folder(context.out, key):
        study = VariantStudy(
            folder=context.out,
            subject=subject,
            split=context.train.split,
            images=len(context.train),
            variants=(SEEDS_ROW, *names),
            seeds=tuple(range(config.seed, config.seed + seeds)),
            results=finished_results(context.out),
        )
        by_name = {variant.name: variant for variant in variants}
        seeds_of = functools.cache(functools.partial(_make_seeds, context))

        def measure(name: str, seed: int) -> Result:
            if name == SEEDS_ROW:
                return _score_seeds(context, seed, seeds_of(seed))
            return _try(context, by_name[name], seed, seeds_of(seed))

        study = measured(study, key, measure)
        write_variant_pages(study)
        return study


def _study_key(context: RunContext, subject: str) -> ResultKey:
    """All that the variants have in common; which variants and random seeds there are is open."""
    stages = stages_of(context.config)
    read = [stages[name] for name in ("seeds", "train", "pseudo_masks")]
    settings = {key: value for stage in read for key, value in result_settings(stage.view(context.config)).items()}
    inputs = context.fingerprints(dict.fromkeys(["train masks", *(source for stage in read for source in stage.data)]))
    return ResultKey(settings=settings | {"study": subject}, inputs=inputs)


def _make_seeds(context: RunContext, seed: int, seeds: AnySeeds | None = None, name: str = "") -> Path:
    """Stage 1; once for all random seeds where nothing in it is drawn at random. `seeds` takes the place of its own."""
    config = dataclasses.replace(context.config, seeds=seeds or context.config.seeds)
    seed = seed if config.seeds.is_random else config.seed
    folder = context.out / "seeds" / f"{name}seed_{seed}"
    run_stage(dataclasses.replace(config, seed=seed), folder, "seeds")
    return folder / STAGE_FOLDERS["seeds"]


def _score_seeds(context: RunContext, seed: int, seed_folder: Path) -> Result:
    scores = score_masks(seed_folder / DENSE, context.train, subject="seeds")[0]
    return Result(variant=SEEDS_ROW, seed=seed, mean_iou=scores.mean_iou, trained_parameters=0)


def _try(context: RunContext, variant: Variant, seed: int, seed_folder: Path) -> Result:
    """Train the variant, or load what is trained already; make and score its pseudo masks."""
    config, dataset, device = variant.config, context.train, context.device
    if variant.seeds_only:
        own = _make_seeds(context, seed, config.seeds, name=f"{variant.name}_")
        return dataclasses.replace(_score_seeds(context, seed, own), variant=variant.name)
    folder, trained = (_folder(context, name, seed) for name in (variant.name, variant.trained_as or variant.name))
    torch.manual_seed(seed)
    model = variant.compose(config.model, context.clip, dataset.class_set)
    pairs, loss = TrainingPairs(dataset, seed_folder / SEED_MASKS, config.augment), WeakCLIPLoss(config.loss)
    description = f"{trained.parent.name}, seed {seed}"
    result = fit(model, pairs, loss, config.train, trained, device=device, seed=seed, description=description)
    score = score_of_masks(context, model, config.pseudo_masks, folder, seeds=seed_folder, regions=folder)
    return Result(variant=variant.name, seed=seed, mean_iou=score, trained_parameters=result.trained_parameters)


def score_of_masks(
    context: RunContext, model: WeakCLIP, settings: PseudoMaskSettings, folder: Path, *, seeds: Path, regions: Path
) -> float:
    """Make the pseudo masks of a network as a run makes them, and score them: the mean IoU, 0…1.

    Args:
        context: of the run: its training images and device.
        model: the network.
        settings: how masks are made.
        folder: gets the masks.
        seeds: folder of the stage of the seeds.
        regions: gets the regions of a bank.
    """
    settings = with_proposals(context, settings)
    steps = mask_steps(
        on_the_encoder(context, lambda images: mixed_logits(model(images), settings.match_share)),
        context.train,
        folder,
        settings,
        device=context.device,
        judge=region_judge(context, settings.region_bank, seeds / SEED_MASKS, regions),
        seeds=seeds / DENSE,
    )
    work_on_masks(steps, context.train, folder, settings)
    return score_masks(folder / MASKS, context.train, subject="pseudo masks")[0].mean_iou


def _folder(context: RunContext, variant: str, seed: int) -> Path:
    return context.out / "variants" / variant / f"seed_{seed}"
