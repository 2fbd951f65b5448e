"""Class probabilities of a data set's images in a folder, one file an image: made elsewhere, or by a run's WeakCLIP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from weakclip.crf.files import read_probs
from weakclip.datasets import ImageLabelDataset, Sample
from weakclip.datasets.images import read_mask
from weakclip.errors import DataError, WeightsError
from weakclip.inference.label_probabilities import label_probabilities, with_seeds
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.inference.windows import OutOfMemoryRetry, predict_probs
from weakclip.modeling import load_weakclip, mixed_logits
from weakclip.pipeline.context import RunContext
from weakclip.store.files import atomic_write
from weakclip.store.jobs import work_through
from weakclip.store.layout import DENSE
from weakclip.store.untrusted_npy import find_arrays
from weakclip.store.untrusted_text import some
from weakclip.training.snapshots import SNAPSHOTS


class ProbabilityFolder:
    """Probabilities `(K, H, W)` in `NAME.npy` or `NAME.npz`, at the size of the image.

    Args:
        folder: where the files are.
        dataset: the images.

    Raises:
        DataError: no such folder.
    """

    def __init__(self, folder: Path | str, dataset: ImageLabelDataset) -> None:
        self.folder = Path(folder)
        self.dataset = dataset
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder; expected probabilities, one .npy or .npz an image")

    def find(self, name: str) -> Path | None:
        """The file of an image, or None."""
        return find_arrays(self.folder, name)

    def check(self, indices: Sequence[int]) -> None:
        """Raise a `DataError` where one of these images has no file."""
        for name in (self.dataset.names[index] for index in indices):
            if self.find(name) is None:
                raise DataError(f"{self.folder / name}.npy: no such file, nor .npz; expected the image's probabilities")

    def fingerprint(self) -> str:
        """Digest of the files' sizes and times; nothing is read."""
        digest = hashlib.sha256()
        for name in self.dataset.names:
            path = self.find(name)
            stat = path.stat() if path else None
            digest.update(repr(stat and (path and path.name, stat.st_size, stat.st_mtime_ns)).encode())
        return digest.hexdigest()[:32]

    def read(self, index: int) -> np.ndarray:
        """Probabilities of one image, `(K, H, W)` float32.

        Raises:
            DataError: no file, an unreadable one, or another number of classes or size than expected.
        """
        self.check([index])
        path = self.find(self.dataset.names[index])
        assert path is not None
        probs = read_probs(path)
        expected = (self.dataset.class_set.num_classes, *self.dataset.size(index))
        if probs.shape != expected:
            raise DataError(
                f"{path}: probabilities of shape {probs.shape}; expected {expected}, classes and image size"
            )
        lowest, total = float(probs.min()), probs.sum(axis=0, dtype=np.float32)
        if not (lowest >= 0 and np.abs(total - 1).max() < 1e-2):
            raise DataError(f"{path}: a pixel's numbers must be 0 or more and sum to 1; apply softmax first")
        return probs.astype(np.float32)


def weights_fingerprint(context: RunContext) -> str:
    """Digest of the WeakCLIP that a run has trained.

    Raises:
        WeightsError: it has none.
    """
    step = context.config.pseudo_masks.step
    path = context.folder("train") / ("model.safetensors" if step is None else f"{SNAPSHOTS}/{step}.safetensors")
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    except OSError:
        raise WeightsError(f"{path}: no such file; give a run folder in which `weakclip train` is done") from None


def check_seeds(context: RunContext, made: Path, indices: Sequence[int]) -> None:
    """Raise a `DataError` where an image lacks the dense seeds that are to have a share in its probabilities.

    Args:
        context: the run.
        made: folder of the probabilities; those that are there need no seeds.
        indices: of the images.
    """
    share, folder = context.config.pseudo_masks.seed_share, context.folder("seeds") / DENSE
    names = [name for name in (context.train.names[index] for index in indices) if find_arrays(made, name) is None]
    without = [name for name in names if share and not (folder / f"{name}.png").is_file()]
    if without:
        raise DataError(
            f"pseudo_masks.seed_share: {share} asks for dense seeds; {folder} has none of {len(without):,} of "
            f"{len(names):,} images ({some(without)}): set data.train_split to that of the run, or this to 0"
        )


def write_probabilities(context: RunContext, folder: Path, indices: Sequence[int]) -> None:
    """Predict images with a run's WeakCLIP into `folder/NAME.npz`, float16; files that are there already are kept.

    Where pseudo masks are restricted to an image's labels, the other classes are 0 here, and take no room.

    Args:
        context: the run, and the settings of `pseudo_masks`.
        folder: where to; made where it is missing.
        indices: which images of the training split.

    Raises:
        WeightsError: weights that do not fit the CLIP, or that are for other classes than the data set's.
    """
    dataset, settings = context.train, context.config.pseudo_masks
    folder.mkdir(parents=True, exist_ok=True)
    known = ProbabilityFolder(folder, dataset)
    if all(known.find(dataset.names[index]) is not None for index in indices):
        return
    model = load_weakclip(context.folder("train"), clip=context.clip, device=context.device, step=settings.step)
    if model.class_set.names != dataset.class_set.names:
        raise WeightsError(f"{context.folder('train')}: trained for other classes than those of the data set")
    network = OutOfMemoryRetry(lambda images: mixed_logits(model(images), settings.match_share))

    def predicted(left: Sequence[int]) -> Iterator[tuple[Sample, np.ndarray]]:
        for index in left:
            sample = dataset[index]
            probs = predict_probs(network, sample.image, settings.inference, device=context.device)
            if settings.seed_share:
                dense = read_mask(context.folder("seeds") / DENSE / f"{sample.name}.png")
                probs = with_seeds(probs, dense, range(len(probs)), settings.seed_share)
            yield sample, probs

    def finish(made: tuple[Sample, np.ndarray]) -> None:
        sample, probs = made
        if settings.restrict_to_labels:
            probs = _restricted(probs, sample.labels, settings)
        with atomic_write(folder / f"{sample.name}.npz") as file:
            np.savez_compressed(file, probs=probs.astype(np.float16))

    work_through(
        indices,
        is_done=lambda index: known.find(dataset.names[index]) is not None,
        make=predicted,
        finish=finish,
        description="probabilities",
    )


def _restricted(probs: np.ndarray, labels: Sequence[int], settings: PseudoMaskSettings) -> np.ndarray:
    """As `pseudo_mask` does it, with zeros for the other classes."""
    kept = np.array([0, *labels])
    result = np.zeros_like(probs)
    keep, balance = settings.keep_foreground, settings.balance
    result[kept] = label_probabilities(probs, kept, keep_foreground=keep, balance=balance)
    return result
