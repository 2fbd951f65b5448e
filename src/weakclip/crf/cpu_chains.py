"""The table of a lattice's vertices, and the chains along which its blur walks; compiled by numba.

A vertex is known by its code, one int64 (see `features.key_strides`); a neighbour's code is that plus a constant.
"""

# ruff: noqa: PLR0917  (compiled functions take their arrays by position)
from __future__ import annotations

from typing import Any

import numpy as np

from weakclip.crf.simd import inner_jit, item, put

HASH = np.int64(-7046029254386353131)
"""2⁶⁴ / golden ratio, odd, as a signed number: what codes are multiplied by."""
HASH_SHIFT = np.int64(29)
"""How far the product is moved to the right before its last bits say where to look in a table."""


@inner_jit
def home(code: Any, table: Any) -> Any:
    """Where in the open-addressing `table` of vertices to begin looking for a code."""
    return ((code * HASH) >> HASH_SHIFT) & (len(table) - 1)


@inner_jit
def find_slot(table: Any, codes: Any, code: Any, slot: Any) -> Any:
    """Where in `table` this code's vertex is, or would be put, looking from `slot` on."""
    while True:
        vertex = np.intp(item(table, slot))
        if vertex < 0 or item(codes, vertex) == code:
            return slot
        slot = (slot + 1) & (len(table) - 1)


@inner_jit
def fill_table(table: Any, codes: Any, count: Any) -> None:
    """Make a table of the first `count` codes' vertices, −1 where a slot is free."""
    for slot in range(len(table)):
        put(table, slot, np.int32(-1))
    for vertex in range(count):
        code = item(codes, vertex)
        put(table, find_slot(table, codes, code, home(code, table)), np.int32(vertex))


@inner_jit
def find_chains(memory: Any, count: Any, table: Any, steps: Any, chain_vertices: Any, groups: Any) -> Any:
    """Fill `chain_vertices` with all runs of two and more neighbours, axis after axis, for each axis sorted by length.

    `groups` is filled with `(length, number)`. `memory` begins with the codes of `count` vertices; what comes after
    them is worked in. Returns how much of `chain_vertices` was filled, and the number of groups.
    """
    codes, spare = memory.view(np.int64), count + 2
    places, links = codes[count : count + spare], memory[8 * (count + spare) :]
    following = links[: 4 * spare].view(np.int32)
    heads, run = links[4 * spare : 8 * spare].view(np.int32), links[8 * spare : 12 * spare].view(np.int32)
    has_previous = links[12 * spare : 13 * spare]
    total, num_groups = 0, 0
    for span in range(spare):
        put(places, span, 0)
    for axis in range(len(steps)):
        _link(codes, count, table, item(steps, axis), following, has_previous)
        chains, longest = _walk(count, following, has_previous, heads, run, places)
        for span in range(2, longest + 1):  # numbers of runs become where the first of them goes
            number = item(places, span)
            put(places, span, total)
            total += span * number
            if number > 0:
                groups[num_groups, 0], groups[num_groups, 1] = span, number
                num_groups += 1
        source = 0
        for chain in range(chains):
            span = int(item(heads, chain))
            place = item(places, span)
            put(places, span, place + span)
            for position in range(span):
                put(chain_vertices, place + position, item(run, source + position))
            source += span
        for span in range(longest + 1):
            put(places, span, 0)
    return total, num_groups


@inner_jit
def _link(codes: Any, count: Any, table: Any, step: Any, following: Any, has_previous: Any) -> None:
    """Along one axis, every vertex's next, `count` where there is none, and whether a vertex has one before it."""
    for vertex in range(count + 1):  # the last one is for those without a next
        put(has_previous, vertex, np.uint8(0))
    for vertex in range(count):
        code = item(codes, vertex) + step
        found = item(table, find_slot(table, codes, code, home(code, table)))
        found = found if found >= 0 else np.int32(count)
        put(following, vertex, found)
        put(has_previous, np.intp(found), np.uint8(1))


@inner_jit
def _walk(count: Any, following: Any, has_previous: Any, heads: Any, run: Any, places: Any) -> Any:
    """Write all runs of two and more one after the other into `run`, and their lengths into `heads`.

    `places` counts the runs of each length. Returns the number of runs and the longest length.
    """
    chains, length, longest = 0, 0, 0
    for vertex in range(count):
        put(heads, chains, np.int32(vertex))
        chains += int(item(following, vertex) < count) & int(1 - item(has_previous, vertex))
    for chain in range(chains):
        current, start = np.intp(item(heads, chain)), length
        while current < count:
            put(run, length, np.int32(current))
            length += 1
            current = np.intp(item(following, current))
        put(heads, chain, np.int32(length - start))
        put(places, length - start, item(places, length - start) + 1)
        longest = max(longest, length - start)
    return chains, longest
