"""Which network a run hands over: chosen by its evaluation, written into its folder, and read by all that take one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from weakclip.errors import RunError
from weakclip.inference.evaluation import NOT_USED, Scores
from weakclip.report.figures import percent
from weakclip.report.folder import read_json
from weakclip.store.files import write_json
from weakclip.store.layout import STAGE_FOLDERS
from weakclip.store.untrusted_text import one_line, short

Network = Literal["weakclip", "retrained"]

NETWORKS: tuple[Network, ...] = get_args(Network)

TITLES: Mapping[Network, str] = {"weakclip": "WeakCLIP", "retrained": "retrained network"}
"""The networks as results tables name them."""

TRAINED_BY: Mapping[Network, str] = {"weakclip": "train", "retrained": "retrain"}
"""The stage that trains each network."""

CHOSEN = "chosen.json"
"""In the folder of `evaluate`."""


@dataclass(frozen=True, kw_only=True)
class ChosenNetwork:
    """The network that a run hands over.

    Args:
        network: "weakclip", or "retrained".
        crf: whether its predictions go through the dense CRF; None where that was not compared: as its settings say.
        why: the reason, in words.
    """

    network: Network
    crf: bool | None
    why: str

    @property
    def line(self) -> str:
        """Network and reason, for the user."""
        how = {True: " with the dense CRF", False: " without a dense CRF", None: ""}[self.crf]
        return f"{TITLES[self.network]}{how} ({self.why})"


def choose_network(scores: Mapping[Network, Sequence[Scores]]) -> ChosenNetwork:
    """The network with the best mean IoU, and whether with the dense CRF; WeakCLIP where nothing is scored.

    Args:
        scores: the rows of each network on the validation split; where it is scored on two lists, those of the first
            row's list count. The first of equal ones is taken.
    """
    whole = {network: [row for row in rows if row.split == rows[0].split] for network, rows in scores.items()}
    best = {network: max(rows, key=lambda row: row.mean_iou) for network, rows in whole.items() if rows}
    if not best:
        return ChosenNetwork(network="weakclip", crf=None, why="there are no true masks to compare networks on")
    network = max(best, key=lambda each: best[each].mean_iou)
    row = best[network]
    why = f"{percent(row.mean_iou)} % mean IoU on {row.split}"
    for other, beaten in best.items():
        if other != network:
            why += f", {TITLES[other]} {percent(beaten.mean_iou)} %"
    return ChosenNetwork(network=network, crf=row.crf != NOT_USED, why=why)


def write_chosen(run: Path, chosen: ChosenNetwork) -> None:
    """Write the choice into the evaluation's folder of a run."""
    write_json(_path(run), asdict(chosen))


def read_chosen(run: Path) -> ChosenNetwork:
    """The choice of a run; WeakCLIP where its evaluation has made none.

    Raises:
        RunError: a file that the evaluation did not write.
    """
    path = _path(run)
    if not path.is_file():
        return ChosenNetwork(network="weakclip", crf=None, why="the run has not compared its networks yet")
    value: dict[str, Any] = read_json(path)
    network, crf, why = (value.get(name) for name in ("network", "crf", "why"))
    if network not in NETWORKS or not (crf is None or isinstance(crf, bool)) or not isinstance(why, str):
        raise RunError(f"{path}: {short(value)}; expected network, crf and why; delete its folder and run `evaluate`")
    return ChosenNetwork(network=network, crf=crf, why=one_line(why))


def _path(run: Path) -> Path:
    return run / STAGE_FOLDERS["evaluate"] / CHOSEN
