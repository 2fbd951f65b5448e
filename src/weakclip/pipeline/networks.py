"""The networks of a run: WeakCLIP, and the one that was trained on its masks; how each is loaded and used."""

from __future__ import annotations

from pathlib import Path

from weakclip.datasets import ImageLabelDataset
from weakclip.inference.evaluation import Scores, score_network
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.inference.windows import LogitsFunction, SharedNetwork
from weakclip.modeling import load_weakclip, mixed_logits
from weakclip.modeling.storage import DESCRIPTION_FILE
from weakclip.pipeline.context import RunContext
from weakclip.segmenters.segmenter import load_segmenter


def load_network(
    context: RunContext, folder: Path, *, match_share: float = 0.0, step: int | None = None
) -> LogitsFunction:
    """The network in a folder of the run: a WeakCLIP on the run's own encoder, or an ordinary one.

    Args:
        context: of the run.
        folder: of the network.
        match_share: share of a WeakCLIP's match map in its logits; an ordinary network has none.
        step: of the training whose weights it has; None for its result.

    Raises:
        WeightsError: there is none, or it cannot be loaded.
    """
    if not (folder / DESCRIPTION_FILE).is_file():
        return SharedNetwork(load_segmenter(folder, device=context.device, step=step))
    model = load_weakclip(folder, clip=context.clip, device=context.device, step=step)
    return on_the_encoder(context, lambda images: mixed_logits(model(images), match_share))


def on_the_encoder(context: RunContext, logits_of: LogitsFunction) -> LogitsFunction:
    """A network on the run's encoder: one that threads may share, unless that is the user's own code."""
    return logits_of if context.has_own_code else SharedNetwork(logits_of)


def score_on_val(
    context: RunContext, logits_of: LogitsFunction, folder: Path, settings: PseudoMaskSettings, *, subject: str
) -> tuple[Scores, ...]:
    """A network on the validation split, without and with dense CRF; nothing where the split has no pixel labels.

    Args:
        context: of the run.
        logits_of: the network.
        folder: gets the predictions.
        settings: how it predicts.
        subject: what is scored, in words.
    """
    val: ImageLabelDataset | None = context.val
    if val is None or not val.has_masks:
        return ()
    return score_network(logits_of, val, folder, settings, subject=subject, device=context.device)
