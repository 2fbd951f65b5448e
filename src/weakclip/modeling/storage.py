"""WeakCLIP on disk: a folder with what is trained and how the model is built; CLIP itself is named, not copied."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from weakclip.clip import Encoder, FrozenCLIP, check_encoder, load_clip
from weakclip.clip.own import is_code
from weakclip.datasets.classes import ClassSet
from weakclip.errors import WeakCLIPError, WeightsError
from weakclip.modeling.co_attention import CoAttention
from weakclip.modeling.decoder import TextGuidedDecoder
from weakclip.modeling.loading_note import loading_note
from weakclip.modeling.official.checkpoint import load_released
from weakclip.modeling.pyramid_adapter import PyramidAdapter
from weakclip.modeling.weakclip import ModelSettings, WeakCLIP
from weakclip.store.files import expand_home, write_json
from weakclip.store.untrusted_text import parse_json, short
from weakclip.store.untrusted_weights import check_room, load_safetensors, save_safetensors
from weakclip.training.snapshots import restore_snapshot

logger = logging.getLogger("weakclip")

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "weakclip.json"
_FORMAT = "weakclip"
_VERSION = 1


def save_weakclip(model: WeakCLIP, folder: str | Path) -> Path:
    """Write what is trained, and everything that is needed to build the model again.

    `model.safetensors` holds `model.trainable_state()`; `weakclip.json` the class set, the `ModelSettings`, and the
    source, tapped layers, pixel statistics and fingerprint of the encoder. Each file appears whole or not at all.

    Args:
        model: the model.
        folder: where to; made where it is missing.

    Returns:
        The folder.

    Raises:
        WeightsError: a model with stand-ins among its parts; nothing is written.
    """
    folder, description = Path(folder), describe(model)
    save_safetensors(folder / WEIGHTS_FILE, model.trainable_state())
    write_json(folder / DESCRIPTION_FILE, description)
    return folder


def load_weakclip(
    path: str | Path,
    *,
    architecture: Mapping[str, Any] | str | Path | None = None,
    vocabulary: str | Path | None = None,
    clip: Encoder | None = None,
    device: str | torch.device = "cpu",
    step: int | None = None,
) -> WeakCLIP:
    """Load a WeakCLIP of ours, or a checkpoint in the format of the released code.

    Args:
        path: a folder of `save_weakclip` (or a file in it), or a released `.pth`.
        architecture: for a released checkpoint, what no weight shape tells; see `released.load_released`.
        vocabulary: CLIP's tokenizer where its source has none; see `load_clip`.
        clip: an encoder that is loaded already, used in place of the CLIP that the folder names; needed where the model
            was trained with an encoder that is no CLIP, for a folder never runs code.
        device: where the model goes; `clip` moves along.
        step: for the folder of a training, whose weights are taken, of those that `train.keep_every` kept; None for the
            result.

    Returns:
        The model, in evaluation mode. Its `origin` says in one line what was loaded and what was not in the file; the
        line goes to the log of the package, too.

    Raises:
        WeightsError: nothing there, not a checkpoint, or one that does not fit; no code in a file is ever run.
        EncoderError: `clip` is no `Encoder`.
    """
    path = expand_home(path)
    if path.name in (WEIGHTS_FILE, DESCRIPTION_FILE):
        path = path.parent
    if path.is_dir():
        if architecture is not None:
            raise WeightsError(f"{path}: `architecture` is for released checkpoints; {DESCRIPTION_FILE} has it here")
        with torch.random.fork_rng(devices=[]):  # first weights are drawn and replaced: the caller's draws stay
            model = _load_folder(path, vocabulary, clip)
            if step is not None:
                restore_snapshot(model, path, step)
                model.origin += f"; weights of step {step}"
            return _noted(model).to(device).eval()
    if not path.is_file():
        raise WeightsError(f"{path}: no such file or folder; expected a folder of save_weakclip or a released .pth")
    if step is not None:
        raise WeightsError(f"{path}: a single file, without weights of step {step}; leave `step` out")
    if clip is not None:
        raise WeightsError(f"{path}: a released checkpoint brings its own CLIP; leave `clip` out")
    with torch.random.fork_rng(devices=[]):
        model = load_released(path, architecture=architecture, vocabulary=vocabulary)
    return _noted(model).to(device).eval()


def _noted(model: WeakCLIP) -> WeakCLIP:
    logger.info(model.origin)
    return model


def read_class_set(folder: str | Path) -> ClassSet:
    """The classes of a WeakCLIP that `save_weakclip` wrote; no weights are read.

    Raises:
        WeightsError: no such folder, or a damaged description.
    """
    class_set: ClassSet = _read_description(Path(folder) / DESCRIPTION_FILE)["class_set"]
    return class_set


def describe(model: WeakCLIP) -> dict[str, Any]:
    """Everything but the weights, ready for JSON."""
    clip = model.clip
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "class_set": asdict(model.class_set),
        "settings": asdict(settings_of(model)),
        "clip": {
            "source": clip.source,
            "tap_layers": _taps(clip),
            "pixel_mean": clip.pixel_mean.flatten().tolist(),
            "pixel_std": clip.pixel_std.flatten().tolist(),
            "fingerprint": clip.fingerprint(),
        },
    }


def settings_of(model: WeakCLIP) -> ModelSettings:
    """The numbers a model was built with, read off its parts; first values (alpha, beta) are not kept.

    Raises:
        WeightsError: a model with stand-ins among its parts, which `ModelSettings` cannot build again.
    """
    adapter, attention, decoder = model.pyramid_adapter, model.co_attention, model.decoder
    standing_in = not isinstance(adapter, PyramidAdapter)
    if standing_in or not isinstance(attention, CoAttention) or not isinstance(decoder, TextGuidedDecoder):
        found = ", ".join(type(part).__name__ for part in (adapter, attention, decoder))
        raise WeightsError(
            f"a WeakCLIP of {found} has no folder format; expected one of build_weakclip, or keep its trainable_state()"
        )
    return ModelSettings(
        prompt_length=model.prompt.length,
        tap_layers=_frozen(_taps(model.clip)),
        co_attention_width=attention.width,
        co_attention_heads=attention.heads,
        co_attention_layers=len(attention.text_layers),
        decoder_channels=decoder.channels,
        dropout=decoder.head.dropout.p,
    )


def _taps(clip: Encoder) -> list[int] | None:
    """The tapped layers of a CLIP; None for another encoder, which has maps of its own."""
    return list(clip.tap_layers) if isinstance(clip, FrozenCLIP) else None


def _load_folder(folder: Path, vocabulary: str | Path | None, clip: Encoder | None) -> WeakCLIP:
    description = _read_description(folder / DESCRIPTION_FILE)
    state = _read_state(folder / WEIGHTS_FILE)
    named = f"loaded from {description['clip']['source']}"
    if clip is not None:
        named = f"given, from {check_encoder(clip).source}"
    what = "CLIP" if clip is None or isinstance(clip, FrozenCLIP) else "encoder"
    settings: ModelSettings = description["settings"]
    try:
        sides = (settings.co_attention_width, settings.decoder_channels)
        check_room(state, [*(side**2 for side in sides), settings.prompt_length])
        if settings.co_attention_layers > len(state):
            raise ValueError(f"{settings.co_attention_layers} layers of {len(state)} tensors")
    except ValueError as error:
        raise WeightsError(f"{folder / DESCRIPTION_FILE}: does not fit {WEIGHTS_FILE} ({error})") from None
    clip = clip or _named_clip(folder, description["clip"], vocabulary)
    _check_clip(folder, description["clip"], clip)
    model = settings.build(clip, description["class_set"])
    model.load_trainable_state(state, source=str(folder / WEIGHTS_FILE))
    model.origin = loading_note(model, f"{folder}: WeakCLIP in this package's format", [f"the {what} ({named})"])
    return model


def _read_description(path: Path) -> dict[str, Any]:
    """The JSON with `class_set` and `settings` made into objects."""
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; expected a folder of save_weakclip") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(raw, dict) or raw.get("format") != _FORMAT:
        raise WeightsError(f'{path}: not written by save_weakclip; expected "format": "{_FORMAT}"')
    if raw.get("version") != _VERSION:
        raise WeightsError(f"{path}: format version {raw.get('version')}; this weakclip reads version {_VERSION}")
    try:
        settings: dict[str, Any] = {key: _frozen(value) for key, value in raw["settings"].items()}
        about_clip = {
            "source": str(raw["clip"]["source"]),
            "tap_layers": None if raw["clip"]["tap_layers"] is None else list(map(int, raw["clip"]["tap_layers"])),
            **{key: _statistics(raw["clip"][key]) for key in ("pixel_mean", "pixel_std")},
        }
        return {
            "class_set": ClassSet(**{field.name: _frozen(raw["class_set"][field.name]) for field in fields(ClassSet)}),
            "settings": ModelSettings(**settings),
            "clip": about_clip | {"fingerprint": raw["clip"].get("fingerprint")},
        }
    except (LookupError, TypeError, ValueError, AttributeError, WeakCLIPError) as error:
        raise WeightsError(f"{path}: damaged description ({error}); save the model again") from None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; expected a folder of save_weakclip")
    try:
        return load_safetensors(path)[0]
    except ValueError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error})") from None


def _named_clip(folder: Path, about_clip: Mapping[str, Any], vocabulary: str | Path | None) -> FrozenCLIP:
    """The encoder that a folder names, with the pixel statistics of the training."""
    source = about_clip["source"]
    if about_clip["tap_layers"] is None or is_code(source):
        raise WeightsError(
            f"{folder}: trained with an encoder that is no CLIP ({short(source)}); pass it yourself: `clip` in "
            "Python, or --clip python:MODULE:FUNCTION"
        )
    try:
        clip = load_clip(source, tap_layers=about_clip["tap_layers"], vocabulary=vocabulary)
    except WeightsError as error:
        raise WeightsError(f"{folder}: its CLIP cannot be loaded: {error}; or pass `clip`") from None
    for name in ("pixel_mean", "pixel_std"):
        statistic = getattr(clip, name)
        statistic.copy_(torch.tensor(about_clip[name], dtype=statistic.dtype).view_as(statistic))
    return clip


def _statistics(value: Any) -> list[float]:
    """Three finite numbers, one a channel."""
    numbers = [float(number) for number in value]
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise TypeError(f"pixel statistics {short(value)}; expected three numbers")
    return numbers


def _check_clip(folder: Path, about_clip: Mapping[str, Any], clip: Encoder) -> None:
    """The encoder at hand is the one that the weights were trained with."""
    known = about_clip["fingerprint"]
    if known is not None and known != clip.fingerprint():
        raise WeightsError(
            f"{folder}: trained with other CLIP weights than {clip.source!r} now holds "
            f"(fingerprint {known}, found {clip.fingerprint()}); load with the CLIP of the training"
        )
    for name in ("pixel_mean", "pixel_std"):
        found = getattr(clip, name).flatten().cpu()
        if not torch.allclose(found, torch.tensor(about_clip[name], dtype=found.dtype)):
            raise WeightsError(f"{folder}: trained with {name} {about_clip[name]}; this encoder has {found.tolist()}")
