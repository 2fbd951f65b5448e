"""Slow oracle of OpenAI's byte-pair tokenizer, from its merge list (openai/CLIP, clip/simple_tokenizer.py), for cleaned
texts: each word's bytes, joined by the earliest merge of the list again and again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import regex

WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def token_ids(text: str, merges: Sequence[tuple[str, str]]) -> list[int]:
    """Ids of a cleaned text, start and end included."""
    order = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order += [byte for byte in range(256) if byte not in order]
    symbols = [chr(byte) if index < 188 else chr(256 + index - 188) for index, byte in enumerate(order)]
    names = [*symbols, *(symbol + "</w>" for symbol in symbols), *map("".join, merges)]
    numbers = {name: index for index, name in enumerate(names)}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids = [len(names)]
    for word in regex.findall(WORDS, text, regex.IGNORECASE):
        parts = [symbols[order.index(byte)] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while known := [pair for pair in itertools.pairwise(parts) if pair in ranks]:
            best, joined, index = min(known, key=ranks.__getitem__), [], 0
            while index < len(parts):
                both = tuple(parts[index : index + 2]) == best
                joined.append("".join(best) if both else parts[index])
                index += 2 if both else 1
            parts = joined
        ids += [numbers[part] for part in parts]
    return [*ids, len(names) + 1]
