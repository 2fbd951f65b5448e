"""Seeds and masks of a run, scored at any time after their stage, on any split whose images it has.

Publications score on the 1,464 images of VOC's `train`, runs train on the 10,582 of `train_aug`; and masks are
published with and without the image-level labels.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from weakclip.clip import Encoder
from weakclip.datasets import ImageLabelDataset
from weakclip.errors import ConfigError, DataError, RunError
from weakclip.inference.evaluation import Scores, describe_crf, describe_scales, score_masks
from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.pipeline.context import TRAIN_DATA, RunContext, open_run
from weakclip.pipeline.data import SomeImages, dataset_fingerprint, open_split
from weakclip.pipeline.given import Given
from weakclip.pipeline.networks import load_network
from weakclip.pipeline.proposal_files import with_proposals
from weakclip.pipeline.stages import stages_of
from weakclip.pipeline.views import EvaluateView
from weakclip.report.figures import percent
from weakclip.store.keyed_folder import keyed_folder
from weakclip.store.keys import ResultKey, flat, result_settings
from weakclip.store.layout import DENSE, MASKS
from weakclip.store.lock import FolderLock
from weakclip.store.manifest import read_records
from weakclip.store.standing import outdated

logger = logging.getLogger("weakclip")

Subject = Literal["seeds", "masks"]

FOLDER = "scored"
"""Below the run folder: masks that were made for a score only, in a folder for each split and use of labels."""


@dataclass(frozen=True, kw_only=True)
class RunScore:
    """A score with all that it needs to be compared.

    Args:
        scores: the numbers, the split, the dense CRF and the scales.
        labelled: the same for the images with labels only, where publications score on these, too; None elsewhere.
        labels: whether the masks hold only classes of the image-level labels.
        truth: how the true masks came about, in words; empty where nothing need be said.
    """

    scores: Scores
    labelled: Scores | None
    labels: bool
    truth: str


def score_lines(score: RunScore) -> list[str]:
    """A score with all that it needs to be compared, for people."""
    row = score.scores
    lines = [
        f"{each.subject}: {percent(each.mean_iou)} % mIoU on {each.split}, {each.images:,} images"
        for each in (row, score.labelled)
        if each is not None
    ]
    lines.append(f"only classes of the image-level labels: {'yes' if score.labels else 'no'}")
    lines += [f"dense CRF: {row.crf}", f"multi-scale: {row.multi_scale}"]
    return [*lines, f"true masks: {score.truth}"] if score.truth else lines


def score_run(
    run: Path | str,
    subject: Subject,
    *,
    split: str | None = None,
    labels: bool | None = None,
    clip: Encoder | None = None,
) -> RunScore:
    """Score the seeds or the masks of a run against the true masks of a split; nothing of the run changes.

    Args:
        run: the run folder.
        subject: "seeds", or "masks".
        split: of the run's data set; its images that the run has masks of are scored. None for the run's own.
        labels: whether masks hold only classes of the image-level labels. Where the run's were made otherwise, the
            split is predicted anew, into `scored` of the run, and a stopped call goes on. None takes what is there.
        clip: the encoder of a WeakCLIP that was trained with one of the user's own.

    Raises:
        RunError: no run, or one whose stage is not done, or was done with other settings than its `config.yaml`, with
            another list or other labels than its data set has now, or on earlier results than are there now.
        ConfigError: seeds without labels.
        DataError: no such split, one with no image of the run, or one without true masks.
    """
    run = Path(run)
    context = RunContext(open_run(run).config, run, given=Given(clip))
    stage = "seeds" if subject == "seeds" else "pseudo_masks"
    _check_done(context, stage)
    dataset = _images(context, split)
    view = EvaluateView.of(context.config)
    if subject == "seeds":
        if labels is False:
            raise ConfigError("seeds are made of the image-level labels; leave --no-labels out, or score masks")
        context.verified.tell_scored(dataset.names)
        rows = score_masks(context.folder("seeds") / DENSE, dataset, subject="seeds", crf=view.seed_crf)
        return _with_lists(rows, labels=True, dataset=dataset)
    masks = view.pseudo_masks
    wanted = masks.restrict_to_labels if labels is None else labels
    if wanted == masks.restrict_to_labels:
        folder = context.folder("pseudo_masks")
        context.verified.tell_scored(dataset.names)
    else:
        folder = _predicted(context, dataset, wanted)
    made = {"crf": describe_crf(masks.crf), "multi_scale": describe_scales(masks.inference)}
    rows = score_masks(folder / MASKS, dataset, subject="pseudo masks", verified=context.verified, **made)
    return _with_lists(rows, labels=wanted, dataset=dataset)


def _with_lists(rows: tuple[Scores, ...], *, labels: bool, dataset: ImageLabelDataset) -> RunScore:
    whole, *others = rows
    return RunScore(scores=whole, labelled=others[0] if others else None, labels=labels, truth=dataset.truth)


def _check_done(context: RunContext, stage: str) -> None:
    """Refuse to score what is not finished, or what `config.yaml`, the stages before it or the data do not describe."""
    records = read_records(context.out)
    record: dict[str, Any] = records.get(stage, {})
    command = f"weakclip {stage.replace('_', '-')}"
    if not record.get("done"):
        raise RunError(f"{context.out}: its {stage} are not finished; run `{command}` or `weakclip run` first")
    settings = result_settings(stages_of(context.config)[stage].view(context.config))
    if ResultKey(settings=settings).record()["settings"] != record.get("settings"):
        raise RunError(
            f"{context.out}: its {stage} were made with other settings than its config.yaml has; `{command}`"
        )
    if stage in outdated(records):
        why = f"its {stage} were made of earlier results than are there now"
        raise RunError(f"{context.out}: {why}; `{command} --redo` makes them again")
    made = record.get("inputs", {})
    changed = [source for source in TRAIN_DATA if context.fingerprint(source) != made.get(f"data ({source})")]
    if changed == ["train images"]:  # a copy on another disk has the same images at other times
        logger.warning("%s: image files have other sizes or times than when its %s were made", context.out, stage)
    elif changed:
        raise RunError(
            f"{context.out}: changed since its {stage} were made: {', '.join(changed)}; bring the data back, or make "
            f"them again with `{command} --redo`"
        )


def _images(context: RunContext, split: str | None) -> ImageLabelDataset:
    """The images of a split that the run has masks of."""
    whole = context.train
    if split is None or split == whole.split:
        return whole
    names = open_split(context.config.data, split, None, out=context.out).names
    known = {name: i for i, name in enumerate(whole.names)}
    indices = [known[name] for name in names if name in known]
    if not indices:
        raise DataError(f"{split}: none of its {len(names):,} images is in {whole.split}, of which the run has masks")
    if absent := len(names) - len(indices):
        logger.warning("%s: %d of %d images are no part of this run, and not scored", split, absent, len(names))
    part = SomeImages(whole, indices)
    part.split = split
    return part


def _predicted(context: RunContext, dataset: ImageLabelDataset, labels: bool) -> Path:
    """The folder of masks of a split with the other use of labels than the run's own."""
    made = context.config.pseudo_masks
    left_out = {
        "seed_share: seeds know the image-level labels": made.seed_share and not labels,
        "region_bank: the stage of the masks fills it": made.region_bank,
    }
    for setting in (setting for setting, is_set in left_out.items() if is_set):
        logger.warning("%s: masks are made without pseudo_masks.%s", dataset.split, setting)
    share = made.seed_share if labels else 0.0
    settings = dataclasses.replace(
        made, restrict_to_labels=labels, seed_share=share, confidence=False, region_bank=None
    )
    trained = str(read_records(context.out).get("train", {}).get("key"))
    key = ResultKey(
        settings=flat(settings, "pseudo_masks"), inputs={"train": trained, "images": dataset_fingerprint(dataset)}
    )
    name = f"{dataset.split}_{'labels' if labels else 'any_class'}"
    with FolderLock(context.out / FOLDER):
        folder = keyed_folder(context.out / FOLDER / name, key, what="score")
        write_pseudo_masks(
            load_network(context, context.folder("train"), match_share=settings.match_share, step=settings.step),
            dataset,
            folder,
            with_proposals(context, settings),
            device=context.device,
            description=f"predicting {dataset.split}",
            seeds=context.folder("seeds") / DENSE,
        )
    return folder
