"""`load_clip`: one word for a hub id, a folder, an OpenAI `.pt` archive, or the CLIP that ships with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from weakclip.clip.families import family_of
from weakclip.clip.frozen_clip import FrozenCLIP
from weakclip.clip.hub_files import load_pretrained, pixel_statistics
from weakclip.clip.openai_archive import convert_openai_state, read_openai_state
from weakclip.clip.text import tokenize
from weakclip.clip.vocabulary import OPENAI_TOKENIZER, load_tokenizer
from weakclip.errors import WeightsError
from weakclip.store.files import expand_home

DEMO = "demo"
"""The source that names the small CLIP inside the package."""

CODE = "python:"
"""How a source begins that names Python code; `own.load_encoder` runs it."""

_EDGES = ("no start token", "a start token first, and the end token of config.json last")
_DEMO_FOLDER = Path(__file__).parent / "demo"
_ARCHIVE_SUFFIXES = (".pt", ".pth")


def load_clip(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    tap_layers: Sequence[int] | None = None,
    vocabulary: str | Path | None = None,
) -> FrozenCLIP:
    """Load a CLIP, or another encoder of `FAMILIES` (SigLIP, MetaCLIP 2, TIPSv2), as a frozen encoder.

    Args:
        source: "demo"; a folder in `transformers`' format; an OpenAI `.pt` archive; or an id on the Hugging Face hub.
            The `model_type` of its `config.json` says the family.
        device: where the weights go.
        tap_layers: image-tower layers that `encode_image` gives, counted from 1; None: see `FrozenCLIP`.
        vocabulary: the tokenizer, where `source` has none: OpenAI's `bpe_simple_vocab_16e6.txt.gz`, a folder that
            holds it or tokenizer files, or a hub id.

    Returns:
        The encoder, float32, in evaluation mode.

    Raises:
        WeightsError: missing, foreign or unreadable weights, a missing vocabulary, or a tapped layer out of range.
    """
    name, path = str(source), expand_home(source)
    if name.startswith(CODE):
        raise WeightsError(
            f"{name}: runs Python code, and is followed only in your own configuration, never from a folder of "
            "results; pass the encoder yourself: `clip` in Python, --clip on the command line"
        )
    if name == DEMO:
        path = _DEMO_FOLDER
    if path.is_dir():
        clip = _from_transformers(str(path), name, vocabulary)
    elif path.is_file():
        clip = _from_archive(path, name, vocabulary)
    elif path.suffix in _ARCHIVE_SUFFIXES or name.count("/") > 1 or name.startswith((".", "~")) or name == DEMO:
        raise WeightsError(f"{path}: no such file or folder; expected CLIP weights")
    else:
        clip = _from_transformers(name, name, vocabulary)
    _check_tokenizer(clip, name)
    try:
        clip.tap(tap_layers)
    except ValueError as error:
        raise WeightsError(f"{name}: {error}") from None
    return clip.to(device)


def _check_tokenizer(clip: FrozenCLIP, name: str) -> None:
    """Whether texts begin and end as the text tower learned them: the ids of another family's tokenizer may all fit.

    Raises:
        WeightsError: they do not, or there are more tokens than the tower knows.
    """
    tokenizer = clip.tokenizer
    if len(tokenizer) > clip.vocabulary_size:
        known = clip.vocabulary_size
        raise WeightsError(f"{name}: a tokenizer of {len(tokenizer)} tokens for a text tower that knows {known}")
    ids, lengths = tokenize(tokenizer, ["a"], clip.context_length, clip.clean_text)
    begins = int(ids[0, 0]) != tokenizer("a", add_special_tokens=False)["input_ids"][0]
    ends = torch.equal(clip.end_positions(ids, lengths), lengths - 1)
    if begins != bool(clip.prompt_position) or not ends:
        found = ", ".join(tokenizer.convert_ids_to_tokens(ids[0].tolist()))
        raise WeightsError(
            f"{name}: its tokenizer is not one of {clip.family}: it makes {found} of the text 'a'; expected "
            f"{_EDGES[bool(clip.prompt_position)]}: name the right one with `vocabulary`"
        )


def _from_transformers(location: str, name: str, vocabulary: str | Path | None) -> FrozenCLIP:
    local = Path(location).is_dir()
    if local and not (Path(location) / "config.json").is_file():
        raise WeightsError(f"{location}: no config.json here; expected a CLIP in the format of transformers")

    where = "in this folder" if local else "in the cache or on the hub (is the machine offline?)"
    model, report = load_pretrained(
        location,
        lambda settings: family_of(settings.get("model_type"), name).network(),
        complaint=f"{name}: no CLIP weights to be had {where}",
    )
    if report["missing_keys"]:
        raise WeightsError(f"{name}: incomplete CLIP weights; missing {', '.join(sorted(report['missing_keys'])[:5])}")
    family = family_of(model.config.model_type, name)
    mean, std = pixel_statistics(location, family.usual_statistics)
    tokenizer = load_tokenizer(str(vocabulary or location))
    return family(model, tokenizer, pixel_mean=mean, pixel_std=std, source=name)


def _from_archive(path: Path, name: str, vocabulary: str | Path | None) -> FrozenCLIP:
    state = read_openai_state(path, of_openai=True)
    try:
        model = convert_openai_state(state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return FrozenCLIP(model, load_tokenizer(str(vocabulary or OPENAI_TOKENIZER)), source=name)
