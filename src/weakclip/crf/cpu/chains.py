"""The hash table of a lattice's vertices, and the chains along which its blur walks; compiled by numba.

A vertex is known by its code, one int64 (see `features.key_strides`). A neighbour's code is that plus a constant, so
that a chain is found by one look-up after the other.
"""

# ruff: noqa: PLR0917  (compiled functions take their arguments by position)
from __future__ import annotations

import numpy as np

from weakclip.crf.cpu.jit import inner_jit
from weakclip.crf.cpu.simd import item, put
from weakclip.crf.cpu.structures import I32, I64, U8, Int

HASH = np.int64(-7046029254386353131)
"""2⁶⁴ / golden ratio, odd, as a signed number: what codes are multiplied by."""
HASH_SHIFT = np.int64(29)
"""How far the product is moved to the right before its last bits say where to look in a table."""
_AHEAD = 64  # vertices that are looked up at once


@inner_jit
def home(code: Int, table: I32) -> Int:
    """The slot of the open-addressing `table` at which to begin looking for a code."""
    return ((code * HASH) >> HASH_SHIFT) & (len(table) - 1)


@inner_jit
def find_slot(table: I32, codes: I64, code: Int, slot: Int) -> Int:
    """The slot of `table` that holds this code's vertex, or would hold it, looking from `slot` on."""
    while True:
        vertex = np.intp(item(table, slot))
        if vertex < 0 or item(codes, vertex) == code:
            return slot
        slot = (slot + 1) & (len(table) - 1)


@inner_jit
def fill_table(table: I32, codes: I64, count: Int) -> None:
    """Make a table of the first `count` codes' vertices, −1 where a slot is free."""
    for slot in range(len(table)):
        put(table, slot, np.int32(-1))
    for vertex in range(count):
        code = item(codes, vertex)
        put(table, find_slot(table, codes, code, home(code, table)), np.int32(vertex))


@inner_jit
def find_chains(
    codes: I64, table: I32, count: Int, steps: I64, chain_vertices: I32, chain_groups: I64
) -> tuple[Int, Int]:
    """Fill `chain_vertices` and `chain_groups`, which are described at `Lattice`, for `count` vertices.

    Returns how much of `chain_vertices` was filled, and the number of groups.
    """
    following, has_previous = np.empty(count + 1, np.int32), np.empty(count + 1, np.uint8)
    run_vertices, run_lengths = np.empty(count, np.int32), np.empty(count + 1, np.int32)
    places = np.zeros(count + 1, np.int64)  # by length: the number of runs, then where the next run goes
    total, num_groups = 0, 0
    for axis in range(len(steps)):
        _link(codes, table, count, item(steps, axis), following, has_previous)
        num_runs, longest = _walk(following, has_previous, count, run_vertices, run_lengths, places)
        for length in range(2, longest + 1):
            number = item(places, length)
            put(places, length, total)
            total += length * number
            if number > 0:
                chain_groups[num_groups, 0], chain_groups[num_groups, 1] = length, number
                num_groups += 1
        source = 0
        for run in range(num_runs):
            length = int(item(run_lengths, run))
            place = item(places, length)
            put(places, length, place + length)
            for position in range(length):
                put(chain_vertices, place + position, item(run_vertices, source + position))
            source += length
        for length in range(longest + 1):
            put(places, length, 0)
    return total, num_groups


@inner_jit
def _link(codes: I64, table: I32, count: Int, step: Int, following: I32, has_previous: U8) -> None:
    """Along one axis, every vertex's next, `count` where there is none, and whether a vertex has one before it."""
    for vertex in range(count + 1):  # the last one takes the marks of vertices without a next
        put(has_previous, vertex, np.uint8(0))
    guesses = np.empty(_AHEAD, np.int32)
    for start in range(0, count, _AHEAD):
        stop = min(start + _AHEAD, count)
        for vertex in range(start, stop):  # no branch that could be guessed wrong: the loads overlap
            put(guesses, vertex - start, item(table, home(item(codes, vertex) + step, table)))
        for vertex in range(start, stop):
            code, found = item(codes, vertex) + step, item(guesses, vertex - start)
            if found >= 0 and item(codes, np.intp(found)) != code:
                found = item(table, find_slot(table, codes, code, home(code, table)))
            found = found if found >= 0 else np.int32(count)
            put(following, vertex, found)
            put(has_previous, np.intp(found), np.uint8(1))


@inner_jit
def _walk(
    following: I32, has_previous: U8, count: Int, run_vertices: I32, run_lengths: I32, places: I64
) -> tuple[Int, Int]:
    """Write all runs of two and more vertices one after the other, and their lengths; count the runs of each length.

    Returns the number of runs and the longest length.
    """
    num_runs, filled, longest = 0, 0, 0
    for vertex in range(count):  # without a branch: a vertex that begins no run is overwritten by the next
        put(run_lengths, num_runs, np.int32(vertex))
        begins = (item(following, vertex) < count) & (item(has_previous, vertex) == 0)
        num_runs += int(begins)
    for run in range(num_runs):  # the first vertex of a run gives way to the run's length
        current, start = np.intp(item(run_lengths, run)), filled
        while current < count:
            put(run_vertices, filled, np.int32(current))
            filled += 1
            current = np.intp(item(following, current))
        length = filled - start
        put(run_lengths, run, np.int32(length))
        put(places, length, item(places, length) + 1)
        longest = max(longest, length)
    return num_runs, longest
