"""A short vector of float32 for numba, so that loops over labels become SIMD code on any processor.

LLVM does not vectorise plain loops over two rows of one array well: it cannot rule out that they overlap. Here the
vector is a type of its own, `LANES` floats wide, and LLVM lowers it to whatever the processor has. numba is imported
at the top of this file: import it only from functions that need the compiled code.

numba's cache notices changes of a compiled function's own file only: after a change here, delete `__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 8
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


def jit(function: Callable[..., Any]) -> Any:
    """Compile without the GIL and without fastmath; cached on disk where some cache directory can be written."""
    try:
        return numba.njit(function, nogil=True, cache=True, error_model="numpy")
    except RuntimeError:  # numba found no directory for its cache: compile anew in each process
        return numba.njit(function, nogil=True, error_model="numpy")


def _operation(function: Callable[..., Any]) -> Any:
    """numba's `intrinsic`, whose static type does not know that the typing context is not passed by the caller."""
    return intrinsic(function)


class FloatVector(types.Type):
    """numba's name for the vector type."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


_vector = FloatVector()


@register_model(FloatVector)
class _FloatVectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _FLOATS)


def _pointer(context: Any, builder: Any, array_type: Any, args: Any) -> Any:
    """Address of `array[row, column]`, as that of a vector."""
    array = context.make_array(array_type)(context, builder, args[0])
    item = cgutils.get_item_pointer(context, builder, array_type, array, args[1:3], wraparound=False)
    return builder.bitcast(item, ir.PointerType(_FLOATS))


@_operation
def load(typing_context: Any, array: Any, row: Any, column: Any) -> Any:
    """`array[row, column : column + LANES]`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], args), align=4)

    return _vector(array, types.intp, types.intp), emit


@_operation
def store(typing_context: Any, array: Any, row: Any, column: Any, value: Any) -> Any:
    """`array[row, column : column + LANES] = value`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[3], _pointer(context, builder, signature.args[0], args), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, _vector), emit


@_operation
def broadcast(typing_context: Any, value: Any) -> Any:
    """The same float32 in every lane."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), args[0], ir.IntType(32)(0))
        return builder.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, [0] * LANES))

    return _vector(types.float32), emit


def _lanewise(arity: int, emit_lanes: Callable[..., Any]) -> Any:
    """An operation on `arity` vectors that yields a vector."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_lanes(builder, *args)

    def unary(typing_context: Any, a: Any) -> Any:
        return _vector(a), emit

    def binary(typing_context: Any, a: Any, b: Any) -> Any:
        return _vector(a, b), emit

    def ternary(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        return _vector(a, b, c), emit

    return _operation((unary, binary, ternary)[arity - 1])


def _call(name: str) -> Callable[..., Any]:
    """LLVM's own function `name` on vectors."""

    def emit(builder: Any, *args: Any) -> Any:
        function_type = ir.FunctionType(_FLOATS, [_FLOATS] * len(args))
        full_name = f"llvm.{name}.v{LANES}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, full_name), args)

    return emit


def _emit_power_of_two(builder: Any, exponent: Any) -> Any:
    bias, shift = ir.Constant(_INTS, [127] * LANES), ir.Constant(_INTS, [23] * LANES)
    bits = builder.shl(builder.add(builder.fptosi(exponent, _INTS), bias), shift)
    return builder.bitcast(bits, _FLOATS)


def _emit_keep_above(builder: Any, value: Any, tested: Any, limit: Any) -> Any:
    zeros = ir.Constant(_FLOATS, [0.0] * LANES)
    return builder.select(builder.fcmp_ordered(">", tested, limit), value, zeros)


add = _lanewise(2, lambda builder, a, b: builder.fadd(a, b))
multiply = _lanewise(2, lambda builder, a, b: builder.fmul(a, b))
maximum = _lanewise(2, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
multiply_add = _lanewise(3, _call("fmuladd"))  # a·b + c
_floor = _lanewise(1, _call("floor"))
_power_of_two = _lanewise(1, _emit_power_of_two)  # of whole numbers from −126 to 127
_keep_above = _lanewise(3, _emit_keep_above)  # value where tested > limit, else 0


def _reduction(emit_pair: Callable[..., Any]) -> Any:
    """An operation that folds the lanes of one vector into a float32, halving it each time."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[0]
        half = LANES // 2
        while half:
            moved = ir.Constant(_INTS, [(lane + half) % LANES for lane in range(LANES)])
            value = emit_pair(builder, value, builder.shuffle_vector(value, value, moved))
            half //= 2
        return builder.extract_element(value, ir.IntType(32)(0))

    def fold(typing_context: Any, a: Any) -> Any:
        return types.float32(a), emit

    return _operation(fold)


sum_lanes = _reduction(lambda builder, a, b: builder.fadd(a, b))
max_lanes = _reduction(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

_F = np.float32
_LOWEST = _F(-87.0)
_LOG2_E = _F(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _F(-0.693359375), _F(2.12194440e-4)  # together −ln 2; the first has few bits: n·it is exact
_C0, _C1, _C2, _C3, _C4, _C5 = _F(1 / 5040), _F(1 / 720), _F(1 / 120), _F(1 / 24), _F(1 / 6), _F(0.5)


@jit
def exp(x: Any) -> Any:
    """Exponential of each lane, for x ≤ 0, to about 1e-7; exactly 0 below −87.

    `exp(x) = 2ⁿ · exp(r)` with `|r| ≤ ln 2 / 2`, where the Taylor series to the 7th power leaves less than 1e-8.
    """
    bounded = maximum(x, broadcast(_LOWEST))
    n = _floor(multiply_add(bounded, broadcast(_LOG2_E), broadcast(_F(0.5))))
    r = multiply_add(n, broadcast(_LN2_LOW), multiply_add(n, broadcast(_LN2_HIGH), bounded))
    y = multiply_add(r, broadcast(_C0), broadcast(_C1))
    y = multiply_add(r, y, broadcast(_C2))
    y = multiply_add(r, y, broadcast(_C3))
    y = multiply_add(r, y, broadcast(_C4))
    y = multiply_add(r, y, broadcast(_C5))
    y = multiply_add(r, y, broadcast(_F(1.0)))
    y = multiply_add(r, y, broadcast(_F(1.0)))
    return _keep_above(multiply(y, _power_of_two(n)), x, broadcast(_LOWEST))
