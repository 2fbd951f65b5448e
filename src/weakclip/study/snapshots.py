"""The kept steps of one training, by the masks that each makes: the only place where pixel labels compare them.

The authors of WeakCLIP choose the step by its mIoU on pixel labels. Who does so here has tuned on that split, and the
study's table says it; a run itself never looks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from weakclip.config import RunConfig
from weakclip.errors import DataError, RunError
from weakclip.modeling import load_weakclip
from weakclip.pipeline.context import TRAIN_DATA, RunContext
from weakclip.store.keys import ResultKey, flat
from weakclip.study.probabilities import weights_fingerprint
from weakclip.study.record import study_folder
from weakclip.study.results import Result, VariantStudy, finished_results, measured
from weakclip.study.variant_pages import write_variant_pages
from weakclip.study.variants import score_of_masks
from weakclip.training.snapshots import kept_steps

SUBJECT = "steps of one training"


def study_snapshots(config: RunConfig, out: Path | str, *, run: Path | str) -> VariantStudy:
    """Make the pseudo masks of every step that a run has kept, and score them on the training split.

    Args:
        config: data set, and the `pseudo_masks` that are made; `data.train_split` names the split.
        out: the study's folder; a study of the same settings and data that is there already is continued.
        run: a run folder whose training has kept steps (`train.keep_every`).

    Raises:
        RunError: a run without kept steps; `out` holds something else, or another process works there.
        DataError: the split has no true masks.
        WeightsError: a run without a fitting WeakCLIP.
    """
    out = Path(out)
    config = dataclasses.replace(config, pseudo_masks=dataclasses.replace(config.pseudo_masks, step=None))
    context = RunContext(config, Path(run), trusted=True)
    training, dataset = context.folder("train"), context.train
    steps = kept_steps(training)
    if not steps:
        raise RunError(f"{training}: keeps no weights by step; train with train.keep_every")
    if not dataset.has_masks:
        raise DataError(f"split {dataset.split!r} has no true masks to score on; name another one: data.train_split")
    inputs = {"weights": weights_fingerprint(context), **context.fingerprints((*TRAIN_DATA, "train masks"))}
    step_of = {f"step_{step}": step for step in steps}
    key = ResultKey(settings=flat(config.pseudo_masks, "pseudo_masks") | {"study": SUBJECT}, inputs=inputs)
    with study_folder(out, key):
        study = VariantStudy(
            folder=out,
            subject=SUBJECT,
            split=dataset.split,
            images=len(dataset),
            variants=tuple(step_of),
            seeds=(config.seed,),
            results=finished_results(out),
        )

        def score(name: str, seed: int) -> Result:
            return _score(context, step_of[name], name, out / "variants" / name)

        study = measured(study, key, score)
        write_variant_pages(study)
        return study


def _score(context: RunContext, step: int, name: str, folder: Path) -> Result:
    """The masks of one step, and their score under its name."""
    model = load_weakclip(context.folder("train"), clip=context.clip, device=context.device, step=step)
    masks, seeds = context.config.pseudo_masks, context.folder("seeds")
    score = score_of_masks(context, model, masks, folder, seeds=seeds, regions=folder.parent)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Result(variant=name, seed=context.config.seed, mean_iou=score, trained_parameters=trained)
