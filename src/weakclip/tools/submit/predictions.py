"""From a finished run to an archive for the PASCAL VOC evaluation server."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from weakclip.clip import Encoder
from weakclip.datasets import ImageLabelDataset
from weakclip.errors import ConfigError, RunError
from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.pipeline.context import RunContext, open_run
from weakclip.pipeline.data import dataset_fingerprint
from weakclip.pipeline.given import Given
from weakclip.pipeline.networks import load_network
from weakclip.prediction.models import find_model
from weakclip.prediction.predictor import default_settings
from weakclip.report.chosen import TRAINED_BY, Network
from weakclip.store.keyed_folder import keyed_folder
from weakclip.store.keys import ResultKey, flat
from weakclip.store.layout import MASKS
from weakclip.store.lock import FolderLock
from weakclip.store.manifest import read_records
from weakclip.tools.submit.archive import write_archive

ENDINGS = (".tgz", ".tar.gz")

FOLDER = "submission"
"""Below the run folder, a folder a split: predictions, and the key of what they depend on."""


def submit(
    run: Path | str,
    out: Path | str,
    *,
    split: str = "test",
    root: str | None = None,
    network: Network | None = None,
    clip: Encoder | None = None,
) -> int:
    """Predict a split of PASCAL VOC with the network that a run hands over, as its evaluation does, and pack the masks.

    The predictions are kept in `submission/SPLIT/masks` of the run: a stopped call goes on, and the masks of another
    network, of other images or of other settings are made anew.

    Args:
        run: the run folder.
        out: the archive, `.tgz` or `.tar.gz`.
        split: the list in ImageSets/Segmentation.
        root: the VOC2012 folder; the one of the run where left out.
        network: another network of the run than the one that its evaluation chose.
        clip: the encoder of a WeakCLIP that was trained with one of the user's own.

    Returns:
        How many masks are in the archive.

    Raises:
        ConfigError: a run on another data set.
        RunError: no run, one whose network is not trained, an archive of another ending, or another process makes a
            submission of it.
        StorageError: a place that cannot be written; the predictions stay.
        DataError: no such split, or an image that cannot be read.
    """
    run, out = Path(run), Path(out)
    if out.is_dir():
        raise RunError(f"{out}: is a folder; name the archive, for instance {out / 'results.tgz'}")
    if not out.name.endswith(ENDINGS):
        raise RunError(f"{out}: expected a name that ends in {' or '.join(ENDINGS)}, for a packed tar file is written")
    context = _context(run, split, root, Given(clip))
    source = find_model(run, network=network)
    trained = _trained(run, source.network)
    dataset = context.val
    assert dataset is not None
    settings = default_settings(source)
    masks = settings.masks(restrict_to_labels=False)
    with FolderLock(run / FOLDER):
        folder = _prediction_folder(context, dataset, masks, trained)
        logits_of = load_network(context, source.path, match_share=masks.match_share, step=source.step)
        write_pseudo_masks(logits_of, dataset, folder, masks, device=context.device, description=f"predicting {split}")
        write_archive(folder / MASKS, dataset, out)
    return len(dataset)


def _context(run: Path, split: str, root: str | None, given: Given) -> RunContext:
    """The run with `split` in the place of its validation split."""
    config = open_run(run).config
    if config.data.dataset != "voc12":
        raise ConfigError(
            f"{run}: a run on {config.data.dataset}; the evaluation server is PASCAL VOC's; give a voc12 run"
        )
    data = dataclasses.replace(
        config.data, val_split=split, val_limit=None, root=root or config.data.root, on_error="stop"
    )
    return RunContext(dataclasses.replace(config, data=data), run, given=given)


def _trained(run: Path, network: Network) -> str:
    """The key under which a network was trained."""
    stage = TRAINED_BY[network]
    record = read_records(run).get(stage, {})
    if not record.get("done"):
        raise RunError(f"{run}: its network is not trained; run `weakclip {stage}` or `weakclip run` first")
    return str(record.get("key"))


def _prediction_folder(
    context: RunContext, dataset: ImageLabelDataset, masks: PseudoMaskSettings, trained: str
) -> Path:
    """The folder of the predictions; what lies there under another key is removed."""
    inputs = {"network": trained, "images": dataset_fingerprint(dataset)}
    key = ResultKey(settings=flat(masks, "submission"), inputs=inputs)
    return keyed_folder(context.out / FOLDER / dataset.split, key, what="submission")
