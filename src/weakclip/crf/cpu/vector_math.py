"""Arithmetic of the vectors of `simd`: lane by lane, over lanes, and the exponential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from weakclip.crf.cpu.jit import inner_jit
from weakclip.crf.cpu.simd import (
    Builder,
    Context,
    NumbaType,
    Signature,
    Typing,
    Value,
    Values,
    Vector,
    ints_of,
    lanes_of,
    like,
    operation,
)
from weakclip.crf.cpu.structures import Lanes


def _lanewise(arity: int, emit_lanes: Callable[..., Value], element: NumbaType = None) -> Any:
    """An operation on `arity` vectors that yields a vector of the last one's type, or of other elements."""

    def result(last: Vector) -> Vector:
        return last if element is None else Vector(element, last.lanes)

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        return emit_lanes(builder, signature.return_type, *args)

    def unary(typing_context: Context, a: NumbaType) -> Typing:
        return result(a)(a), emit

    def binary(typing_context: Context, a: NumbaType, b: NumbaType) -> Typing:
        return result(b)(a, b), emit

    def ternary(typing_context: Context, a: NumbaType, b: NumbaType, c: NumbaType) -> Typing:
        return result(c)(a, b, c), emit

    def quaternary(typing_context: Context, a: NumbaType, b: NumbaType, c: NumbaType, d: NumbaType) -> Typing:
        return result(d)(a, b, c, d), emit

    return operation((unary, binary, ternary, quaternary)[arity - 1])


def _by_element(floats: str, longs: str) -> Callable[..., Value]:
    """An instruction of LLVM by its name for either kind of element."""

    def emit(builder: Builder, vector: Vector, *args: Value) -> Value:
        return getattr(builder, floats if vector.element == types.float32 else longs)(*args)

    return emit


def _call(name: str) -> Callable[..., Value]:
    """LLVM's own function `name` on vectors of float32."""

    def emit(builder: Builder, vector: Vector, *args: Value) -> Value:
        function_type = ir.FunctionType(lanes_of(vector), [lanes_of(vector)] * len(args))
        full_name = f"llvm.{name}.v{vector.lanes}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, full_name), args)

    return emit


def _emit_exponent(builder: Builder, vector: Vector, number: Value) -> Value:
    bits = builder.bitcast(number, ints_of(vector.lanes))
    shifted = builder.shl(bits, ir.Constant(ints_of(vector.lanes), [23] * vector.lanes))
    return builder.bitcast(shifted, lanes_of(vector))


def _emit_choose(operator: str) -> Callable[..., Value]:
    def emit(builder: Builder, vector: Vector, *args: Value) -> Value:
        return builder.select(builder.fcmp_ordered(operator, *args[:2]), *args[2:])

    return emit


def _emit_whole(builder: Builder, vector: Vector, number: Value) -> Value:
    return builder.sext(builder.fptosi(number, ints_of(vector.lanes)), lanes_of(vector))


add = _lanewise(2, _by_element("fadd", "add"))
subtract = _lanewise(2, _by_element("fsub", "sub"))
multiply = _lanewise(2, _by_element("fmul", "mul"))
divide = _lanewise(2, _by_element("fdiv", "sdiv"))
bits_and = _lanewise(2, lambda builder, vector, a, b: builder.and_(a, b))  # of int64
shift_right = _lanewise(2, lambda builder, vector, a, b: builder.ashr(a, b))  # of int64
minimum = _lanewise(2, lambda builder, vector, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
where_less = _lanewise(4, _emit_choose("<"))  # the third where a < b, else the fourth; a and b are float32
where_equal = _lanewise(4, _emit_choose("=="))  # the third where a = b, else the fourth; a and b are float32
multiply_add = _lanewise(3, _call("fmuladd"))  # a·b + c
nearest = _lanewise(1, _call("rint"))  # whole number; halves to the even one
whole = _lanewise(1, _emit_whole, types.int64)  # of float32 within 32 bits
_exponent = _lanewise(1, _emit_exponent)  # a float32's last bits as its exponent


@operation
def sum_groups(typing_context: Context, vector: NumbaType, size: NumbaType) -> Typing:
    """In every lane, the sum of the `size` lanes of its group, a power of two; from `size_of`."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        total, half = args[0], len(size) // 2
        while half:
            # A butterfly: each lane adds the one `half` away, so that after all halves every lane has the whole sum.
            moved = ir.Constant(ints_of(vector.lanes), [lane ^ half for lane in range(vector.lanes)])
            total = builder.fadd(total, builder.shuffle_vector(total, total, moved))
            half //= 2
        return total

    return vector(vector, size), emit


@operation
def sum_lanes(typing_context: Context, vector: NumbaType) -> Typing:
    """The sum of a vector's 1, 2, 4 or 8·n lanes."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        part = min(vector.lanes, 8)
        picks = [ir.Constant(ints_of(part), list(range(at, at + part))) for at in range(0, vector.lanes, part)]
        total, *others = (builder.shuffle_vector(args[0], args[0], pick) for pick in picks)
        for other in others:
            total = builder.fadd(total, other)
        half = part // 2
        while half:
            moved = ir.Constant(ints_of(part), [(lane + half) % part for lane in range(part)])
            total = builder.fadd(total, builder.shuffle_vector(total, total, moved))
            half //= 2
        return builder.extract_element(total, ir.IntType(32)(0))

    return types.float32(vector), emit


@operation
def lowest_lane(typing_context: Context, vector: NumbaType) -> Typing:
    """The lowest of a vector's lanes."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        lowest, *others = (builder.extract_element(args[0], ir.IntType(32)(lane)) for lane in range(vector.lanes))
        for other in others:
            lowest = builder.select(builder.fcmp_ordered("<", other, lowest), other, lowest)
        return lowest

    return types.float32(vector), emit


_F = np.float32
_HIGHEST = _F(89.0)
_LOG2_E = _F(1.44269504088896341)
_LN2 = _F(0.69314718055994531)
_SHIFT = _F(1.5 * 2**23 + 127)  # a number added to it is rounded to a whole one, and ends in the bits of an exponent
_C5, _C4 = _F(0.008312520571053028), _F(0.04189015552401543)
_C3, _C2 = _F(0.16667114198207855), _F(0.499992311000824)


@inner_jit
def exp(x: Lanes) -> Lanes:
    """Exponential of each lane, for x ≥ −87; infinity above 88.4.

    The largest relative error is 2.2e-7 in −20…20 and 4e-7 elsewhere on processors with a fused `a·b + c`, 1.2e-6 and
    4.2e-6 on those without (found at four million places in each of −87…0, −20…0, 0…20 and 20…88).

    `exp(x) = 2ⁿ · exp(r)` with `|r| ≤ ln 2 / 2`. There the polynomial, which Lawson's algorithm has fitted, has a
    relative error of 1.05e-7: hardly more than the rounding of a float32. One constant for ln 2 is enough where
    `n · ln 2` is not rounded before it is subtracted, as the fused operation does it; otherwise its rounding, which
    grows with `n`, is most of the error.
    """
    bounded = minimum(x, like(x, _HIGHEST))
    shifted = multiply_add(bounded, like(x, _LOG2_E), like(x, _SHIFT))
    n = subtract(shifted, like(x, _SHIFT))
    r = multiply_add(n, like(x, -_LN2), bounded)
    y = multiply_add(r, like(x, _C5), like(x, _C4))
    y = multiply_add(r, y, like(x, _C3))
    y = multiply_add(r, y, like(x, _C2))
    y = multiply_add(r, y, like(x, _F(1.0)))
    y = multiply_add(r, y, like(x, _F(1.0)))
    return multiply(y, _exponent(shifted))
