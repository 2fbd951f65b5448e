"""Which network a path means, and which run it is of."""

from __future__ import annotations

import functools
import hashlib
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import weakclip.clip
from weakclip.config import RunConfig, load_run_config
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError, WeakCLIPError, WeightsError
from weakclip.modeling.storage import DESCRIPTION_FILE, WEIGHTS_FILE, read_class_set
from weakclip.pipeline.data import source_fingerprint
from weakclip.pipeline.views import prediction_settings
from weakclip.report.chosen import NETWORKS, TITLES, TRAINED_BY, ChosenNetwork, Network, read_chosen
from weakclip.store.files import expand_home
from weakclip.store.layout import CONFIG, STAGE_FOLDERS
from weakclip.store.paths import check_model
from weakclip.store.standing import mixture
from weakclip.training.snapshots import SNAPSHOTS

logger = logging.getLogger("weakclip")

NETWORK_CONFIG = "config.json"


@dataclass(frozen=True)
class ModelSource:
    """A network on disk.

    Args:
        kind: "segmenter", an ordinary segmentation network; or "weakclip".
        path: its folder, or a released checkpoint.
        run: the folder of the run that it is of, where there is one.
        chosen: why it is taken, where only its run was named.
    """

    kind: Literal["segmenter", "weakclip"]
    path: Path
    run: Path | None
    chosen: ChosenNetwork | None = field(default=None, compare=False)

    @property
    def network(self) -> Network:
        """Which of the two networks of a run it is."""
        is_retrained = self.path.resolve().name.startswith(STAGE_FOLDERS["retrain"])
        return "weakclip" if self.kind == "weakclip" and not is_retrained else "retrained"

    @property
    def step(self) -> int | None:
        """The step of the training whose weights a run's network has; None for its result."""
        return prediction_settings(self.config, self.network).step if self.config else None

    @functools.cached_property
    def config(self) -> RunConfig | None:
        """The settings of its run."""
        return None if self.run is None else load_run_config(self.run)

    @property
    def fingerprint(self) -> str:
        """Digest of its files."""
        files = [self.path]
        if self.path.is_dir():
            description = DESCRIPTION_FILE if self.kind == "weakclip" else NETWORK_CONFIG
            files = [path for name in ("*.safetensors", description) for path in sorted(self.path.glob(name))]
            files = [path for path in files if path.name != "checkpoint.safetensors"]  # of the training, not the result
        if self.step is not None:
            files.append(self.path / SNAPSHOTS / f"{self.step}.safetensors")
        demo = Path(weakclip.clip.__file__).parent / "demo"
        parts = "\n".join(source_fingerprint(str(path), demo) for path in files)
        return hashlib.sha256(parts.encode()).hexdigest()[:32]

    def class_set(self, names: tuple[str, ...]) -> ClassSet:
        """The classes with their colours: those of its run where they have these names."""
        if self.run is not None:
            try:
                known = read_class_set(self.run / STAGE_FOLDERS["train"])
            except WeakCLIPError:
                return ClassSet(names=names)
            if known.names == names:
                return known
        return ClassSet(names=names)


def find_model(source: Path | str, *, network: Network | None = None) -> ModelSource:
    """The network that a path means.

    Args:
        source: a run folder, of whose networks the one that its evaluation chose is meant; the folder of either
            (`4_retrain`, `2_train`), or their `model.safetensors`; any folder of `AutoModelForSemanticSegmentation`; or
            a released checkpoint of WeakCLIP (`.pth`).
        network: another choice than the evaluation's; for a run folder only.

    Raises:
        WeightsError: none of these.
        ConfigError: `network` for something else than a run folder.
    """
    check_model(source)
    path = expand_home(source)
    if path.name in (WEIGHTS_FILE, DESCRIPTION_FILE, NETWORK_CONFIG):
        path = path.parent
    if (path / CONFIG).is_file():
        return _of_run(path, network)
    if network is not None:
        raise ConfigError(f"{path}: not a run folder, in which {network!r} could be chosen; leave the choice out")
    if path.is_file():
        return ModelSource("weakclip", path, None)
    found = _in_folder(path)
    if found is None:
        raise WeightsError(
            f"{path}: holds no network; expected a run, a folder of a network, or a released WeakCLIP .pth"
        )
    return found


def _of_run(run: Path, wanted: Network | None) -> ModelSource:
    """The network of a run that is wanted; where nothing is said, the chosen one, or the only one that is there."""
    if mixed := mixture(run):
        logger.warning("%s", mixed)
    there = {network: _in_folder(run / STAGE_FOLDERS[TRAINED_BY[network]]) for network in NETWORKS}
    names = [network for network in NETWORKS if there[network]]
    chosen = read_chosen(run) if wanted is None else ChosenNetwork(network=wanted, crf=None, why="asked for")
    if wanted is None and len(names) == 1 and names[0] != chosen.network:
        chosen = ChosenNetwork(network=names[0], crf=None, why="the only one there")
    source = there[chosen.network]
    if source is None:
        command = TRAINED_BY[chosen.network] if wanted else "train"
        what = f"a {TITLES[wanted]}" if wanted else "a trained network"
        raise WeightsError(f"{run}: a run without {what}; run `weakclip {command}` or `weakclip run` first")
    logger.info("%s: takes its %s", run, chosen.line)
    return replace(source, chosen=chosen)


def _in_folder(folder: Path) -> ModelSource | None:
    run = folder.resolve().parent if (folder.resolve().parent / CONFIG).is_file() else None
    if (folder / DESCRIPTION_FILE).is_file():
        return ModelSource("weakclip", folder, run)
    return ModelSource("segmenter", folder, run) if (folder / NETWORK_CONFIG).is_file() else None
