"""The table of a lattice's vertices, and the chains along which its blur walks; compiled by numba.

A vertex is known by its code, one int64 (see `features.key_strides`); a neighbour's code is that plus a constant.
"""

# ruff: noqa: PLR0917  (compiled functions take their arrays by position)
from __future__ import annotations

from typing import Any

import numpy as np

from weakclip.crf.cpu.jit import inner_jit
from weakclip.crf.cpu.simd import item, put

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
def find_chains(
    codes: Any, links: Any, has_previous: Any, count: Any, table: Any, steps: Any, chain_vertices: Any, groups: Any
) -> Any:
    """Fill `chain_vertices` with all runs of two and more neighbours, axis after axis, for each axis sorted by length.

    `groups` is filled with `(length, number)`. `codes`, int64, begin with those of `count` vertices; `links`, int32,
    and `has_previous`, uint8, see the same memory, and behind the codes all three are worked in. Returns how much of
    `chain_vertices` was filled, and the number of groups.
    """
    spare = count + 2
    places = count  # in `codes`: of the runs of each length
    following = 4 * spare  # in `links`, then three of these beside each other
    heads, run = following + spare, following + 2 * spare
    flags = 4 * (following + 3 * spare)  # in `has_previous`
    total, num_groups = 0, 0
    for span in range(spare):
        put(codes, places + span, 0)
    for axis in range(len(steps)):
        _link(codes, count, table, item(steps, axis), links, following, has_previous, flags)
        chains, longest = _walk(codes, links, has_previous, count, following, flags)
        for span in range(2, longest + 1):  # numbers of runs become where the first of them goes
            number = item(codes, places + span)
            put(codes, places + span, total)
            total += span * number
            if number > 0:
                groups[num_groups, 0], groups[num_groups, 1] = span, number
                num_groups += 1
        source = run
        for chain in range(chains):
            span = int(item(links, heads + chain))
            place = item(codes, places + span)
            put(codes, places + span, place + span)
            for position in range(span):
                put(chain_vertices, place + position, item(links, source + position))
            source += span
        for span in range(longest + 1):
            put(codes, places + span, 0)
    return total, num_groups


@inner_jit
def _link(
    codes: Any, count: Any, table: Any, step: Any, links: Any, following: Any, has_previous: Any, flags: Any
) -> None:
    """Along one axis, every vertex's next, `count` where there is none, and whether a vertex has one before it."""
    for vertex in range(count + 1):  # the last one is for those without a next
        put(has_previous, flags + vertex, np.uint8(0))
    for vertex in range(count):
        code = item(codes, vertex) + step
        found = item(table, find_slot(table, codes, code, home(code, table)))
        found = found if found >= 0 else np.int32(count)
        put(links, following + vertex, found)
        put(has_previous, flags + np.intp(found), np.uint8(1))


@inner_jit
def _walk(codes: Any, links: Any, has_previous: Any, count: Any, following: Any, flags: Any) -> Any:
    """Write all runs of two and more one after the other, and their lengths; places as in `find_chains`.

    The runs of each length are counted. Returns the number of runs and the longest length.
    """
    heads, run = following + count + 2, following + 2 * (count + 2)
    chains, length, longest = 0, 0, 0
    for vertex in range(count):
        put(links, heads + chains, np.int32(vertex))
        starts = (item(links, following + vertex) < count) & (item(has_previous, flags + vertex) == 0)
        chains += int(starts)
    for chain in range(chains):
        current, start = np.intp(item(links, heads + chain)), length
        while current < count:
            put(links, run + length, np.int32(current))
            length += 1
            current = np.intp(item(links, following + current))
        span = length - start
        put(links, heads + chain, np.int32(span))
        put(codes, count + span, item(codes, count + span) + 1)
        longest = max(longest, span)
    return chains, longest
