"""CLIP's byte-pair tokenizer from OpenAI's merge list, a folder, or the hub."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerBase

from weakclip.clip.hub_files import cache_first
from weakclip.errors import WeightsError, first_line

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"

OPENAI_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
"""Name of OpenAI's merge list, as in the repository openai/CLIP."""

OPENAI_TOKENIZER = "openai/clip-vit-base-patch16"
"""Where the tokenizer of an OpenAI archive comes from when none is given: all CLIPs of OpenAI share one vocabulary."""

_OPENAI_MERGES = 49152 - 256 - 2  # CLIP reads this many lines of its list (openai/CLIP, clip/simple_tokenizer.py)
_LONGEST = 2**25  # bytes unpacked; the file itself has three million
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


def byte_characters() -> list[str]:
    """The 256 characters that stand for the bytes in byte-level BPE, printable bytes first, as in GPT-2 and CLIP."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def tokenizer_from_merges(merges: Sequence[tuple[str, str]]) -> CLIPTokenizer:
    """CLIP's tokenizer from a merge list; ids in OpenAI's order: bytes, bytes that end a word, merges, start, end.

    Args:
        merges: pairs in order of precedence; with none, every byte is a token.
    """
    characters = byte_characters()
    words = [*characters, *(character + "</w>" for character in characters), *map("".join, merges)]
    vocabulary = {word: index for index, word in enumerate([*words, START_TOKEN, END_TOKEN])}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges))  # type: ignore[arg-type]


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Pairs of OpenAI's `bpe_simple_vocab_16e6.txt.gz`.

    Raises:
        WeightsError: not that file.
    """
    try:
        with gzip.open(path) as file:
            lines = file.read(_LONGEST).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise WeightsError(f"{path}: not OpenAI's {OPENAI_VOCABULARY} ({error})") from None
    pairs = [tuple(line.split()) for line in lines[1 : 1 + _OPENAI_MERGES]]
    if len(pairs) != _OPENAI_MERGES or any(len(pair) != 2 for pair in pairs):
        raise WeightsError(f"{path}: expected {_OPENAI_MERGES} merges as in OpenAI's {OPENAI_VOCABULARY}")
    return [(first, second) for first, second in pairs]


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a merge list, a folder with tokenizer files, or a hub id.

    Raises:
        WeightsError: there is none; the message says how to get one.
    """
    path = Path(source)
    if path.is_file():
        return tokenizer_from_merges(read_merges(path))
    if path.is_dir():
        if (path / OPENAI_VOCABULARY).is_file():
            return tokenizer_from_merges(read_merges(path / OPENAI_VOCABULARY))
        if not any((path / name).is_file() for name in _TOKENIZER_FILES):
            raise WeightsError(
                f"{path}: no tokenizer here; expected {', '.join(_TOKENIZER_FILES)} or {OPENAI_VOCABULARY}, "
                "or name one with `vocabulary`"
            )
    try:
        return cache_first(
            source, lambda here: AutoTokenizer.from_pretrained(source, local_files_only=here, trust_remote_code=False)
        )
    except Exception as error:  # transformers and the hub raise many kinds; the reader needs one line
        raise WeightsError(
            f"{source}: no tokenizer to be had ({first_line(error)}); pass `vocabulary`: OpenAI's {OPENAI_VOCABULARY} "
            "from github.com/openai/CLIP (folder clip), or a folder with tokenizer files"
        ) from None
