"""Which network a path means, and which run it is of."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import weakclip.clip
from weakclip.classes import ClassSet
from weakclip.config import RunConfig, load_config
from weakclip.disk import expand_home
from weakclip.errors import WeakCLIPError, WeightsError
from weakclip.modeling.storage import DESCRIPTION_FILE, WEIGHTS_FILE, read_class_set
from weakclip.pipeline.context import CONFIG
from weakclip.pipeline.data import source_fingerprint
from weakclip.report import STAGE_FOLDERS

NETWORK_CONFIG = "config.json"


@dataclass(frozen=True)
class ModelSource:
    """A network on disk.

    Args:
        kind: "segmenter", an ordinary segmentation network; or "weakclip".
        path: its folder, or a released checkpoint.
        run: the folder of the run that it is of, where there is one.
    """

    kind: Literal["segmenter", "weakclip"]
    path: Path
    run: Path | None

    @functools.cached_property
    def config(self) -> RunConfig | None:
        """The settings of its run."""
        return None if self.run is None else load_config(self.run / CONFIG)

    @property
    def fingerprint(self) -> str:
        """Digest of its files."""
        files = [self.path]
        if self.path.is_dir():
            description = DESCRIPTION_FILE if self.kind == "weakclip" else NETWORK_CONFIG
            files = [path for name in ("*.safetensors", description) for path in sorted(self.path.glob(name))]
            files = [path for path in files if path.name != "checkpoint.safetensors"]  # of the training, not the result
        demo = Path(weakclip.clip.__file__).parent / "demo"
        parts = "\n".join(source_fingerprint(str(path), demo) for path in files)
        return hashlib.sha256(parts.encode()).hexdigest()[:32]

    def class_set(self, names: tuple[str, ...]) -> ClassSet:
        """The classes with their colours: those of its run where they have these names.

        Args:
            names: the names that the network itself has.
        """
        if self.run is not None:
            try:
                known = read_class_set(self.run / STAGE_FOLDERS["train"])
            except WeakCLIPError:
                return ClassSet(names=names)
            if known.names == names:
                return known
        return ClassSet(names=names)


def find_model(source: Path | str) -> ModelSource:
    """The network that a path means.

    Args:
        source: a run folder, whose retrained network is meant, or its WeakCLIP where it has none; the folder of either
            (`4_retrain`, `2_train`), or their `model.safetensors`; any folder of `AutoModelForSemanticSegmentation`; or
            a released checkpoint of WeakCLIP (`.pth`).

    Raises:
        WeightsError: none of these.
    """
    path = expand_home(source)
    if path.name in (WEIGHTS_FILE, DESCRIPTION_FILE, NETWORK_CONFIG):
        path = path.parent
    if path.is_file():
        return ModelSource("weakclip", path, None)
    if (path / CONFIG).is_file():
        for stage in ("retrain", "train"):
            found = _in_folder(path / STAGE_FOLDERS[stage])
            if found is not None:
                return found
        raise WeightsError(f"{path}: a run without a trained network; run `weakclip train` or `weakclip run` first")
    found = _in_folder(path)
    if found is None:
        what = "holds no network" if path.is_dir() else "no such file or folder"
        raise WeightsError(f"{path}: {what}; expected a run, a folder of a network, or a released WeakCLIP .pth")
    return found


def _in_folder(folder: Path) -> ModelSource | None:
    run = folder.resolve().parent if (folder.resolve().parent / CONFIG).is_file() else None
    if (folder / DESCRIPTION_FILE).is_file():
        return ModelSource("weakclip", folder, run)
    return ModelSource("segmenter", folder, run) if (folder / NETWORK_CONFIG).is_file() else None
