"""MCTformer+ on disk: our file, the released checkpoint, and the DeiT that training starts from, all of one naming."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.errors import WeightsError
from weakclip.modeling.state_files import fill, read_state
from weakclip.seeds.mctformer.model import MCTformer
from weakclip.store.untrusted_text import parse_json
from weakclip.store.untrusted_weights import check_room, save_safetensors

_FORMAT = "mctformer"
_HEAD_WIDTH = 64  # of DeiT
_RANK_DECAY = 0.996  # of the released code
_UNUSED = ("norm.", "pos_embed", "head_dist.")
"""In the files, but used by no MCTformer+: DeiT's last norm, its whole position table, and its distillation head."""


def save_mctformer(model: MCTformer, path: str | Path) -> None:
    """Write the weights as safetensors, with what no weight shape tells; the file appears whole or not at all."""
    numbers = json.dumps({"heads": model.heads, "rank_decay": model.rank_decay})
    save_safetensors(path, model.state_dict(), {_FORMAT: numbers})


def load_mctformer(
    path: str | Path, *, heads: int | None = None, rank_decay: float | None = None, device: str | torch.device = "cpu"
) -> MCTformer:
    """A trained MCTformer+ for inference.

    Args:
        path: a file of `save_mctformer`, or a checkpoint of the released code (`{"model": …}`).
        heads: attention heads, which no weight shape tells; None for what our file says, or else of 64 channels each.
        rank_decay: see `MCTformer`; None for what our file says, or else the released code's.
        device: where the model goes.

    Returns:
        The model, in evaluation mode.

    Raises:
        WeightsError: no such file, not an MCTformer+, or one whose tensors do not fit. No code in the file is run.
    """
    state, numbers = _read(Path(path))
    try:
        _, count, width = state["cls_token"].shape
        positions, patch = state["pos_embed_pat"].shape[1], state["patch_embed.proj.weight"].shape[-1]
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{path}: not an MCTformer+ checkpoint; it has no proper {error}") from None
    try:
        check_room(state, [3 * width * width])
        heads = int(heads or numbers.get("heads") or max(1, width // _HEAD_WIDTH))
        decay = float(numbers.get("rank_decay", _RANK_DECAY) if rank_decay is None else rank_decay)
    except (ValueError, TypeError, OverflowError) as error:
        raise WeightsError(f"{path}: not an MCTformer+ checkpoint ({error})") from None
    if math.isqrt(positions) ** 2 != positions or heads < 1 or width % heads:
        raise WeightsError(f"{path}: {positions} positions and width {width}; expected a square and {heads} heads")
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    with torch.random.fork_rng(devices=[]):  # first weights are drawn and replaced: the caller's draws stay
        model = MCTformer(
            count + 1,
            image_size=math.isqrt(positions) * patch,
            patch_size=patch,
            width=width,
            depth=depth,
            heads=heads,
            rank_decay=decay,
        )
    _fill(model, state, path)
    return model.to(device).eval()


def start_from_deit(model: MCTformer, path: str | Path) -> None:
    """Fill a fresh MCTformer+ with a DeiT: every class token starts as DeiT's one; the class maps' head stays random.

    The position table is enlarged by repetition, as in the released code (14 × 14 to 28 × 28).

    Args:
        model: of DeiT's width, depth and patch size.
        path: a DeiT or ViT checkpoint with timm's names, `.pth` (`{"model": …}` or plain) or `.safetensors`.

    Raises:
        WeightsError: no such file, not a DeiT, or one whose tensors do not fit. No code in the file is run.
    """
    state, _ = _read(Path(path))
    table = state.get("pos_embed", torch.empty(0))
    side = math.isqrt(max(0, table.shape[1] - 1)) if table.ndim == 3 else 0
    if not side or table.shape[1] != 1 + side**2 or "cls_token" not in state:
        raise WeightsError(f"{path}: not a DeiT checkpoint; expected cls_token, and pos_embed (1, 1+n², D)")
    state = {name: value for name, value in state.items() if not name.startswith("head.")}
    count = model.num_classes - 1
    square = table[:, 1:].transpose(1, 2).unflatten(2, (side, side)).float()
    resized = F.interpolate(square, size=(model.side, model.side), mode="nearest-exact")
    state |= {
        "cls_token": state["cls_token"].expand(-1, count, -1),
        "pos_embed_cls": table[:, :1].expand(-1, count, -1),
        "pos_embed_pat": resized.flatten(2).transpose(1, 2),
        **{f"head.{name}": value for name, value in model.head.state_dict().items()},
    }
    _fill(model, state, path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file, and the numbers that `save_mctformer` put there."""
    state, metadata = read_state(path)
    try:
        numbers = parse_json(metadata.get(_FORMAT, "{}"))
        if not isinstance(numbers, dict):
            raise ValueError(f"{_FORMAT} is no JSON object")
        return state, numbers
    except ValueError as error:
        raise WeightsError(f"{path}: not a checkpoint that can be read safely ({error})") from None


def _fill(model: MCTformer, state: Mapping[str, Tensor], path: str | Path) -> None:
    own = model.state_dict()
    used = {name: value for name, value in state.items() if name in own or not name.startswith(_UNUSED)}
    fill(model, used, path, kind="MCTformer+")
