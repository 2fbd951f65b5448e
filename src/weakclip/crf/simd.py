"""A short vector of float32 for numba, so that loops over labels and pixels become SIMD code on any processor.

LLVM does not vectorise plain loops over two rows of one array well: it cannot rule out that they overlap. Here the
vector is a type of its own, and LLVM lowers it to whatever the processor has. numba is imported at the top of this
file: import it only from functions that need the compiled code.

How many lanes a vector has, and how often a short loop runs, must be known when the code is compiled. Such numbers
are passed as tuples of that length, `size_of(8)`, since a tuple's length is part of its type.

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


def jit(function: Callable[..., Any]) -> Any:
    """Compile without the GIL and without fastmath; cached on disk where some cache directory can be written."""
    try:
        return numba.njit(function, nogil=True, cache=True, error_model="numpy")
    except RuntimeError:  # numba found no directory for its cache: compile anew in each process
        return numba.njit(function, nogil=True, error_model="numpy")


def size_of(number: int) -> tuple[int, ...]:
    """A number that compiled code sees as a constant."""
    return (0,) * number


def _operation(function: Callable[..., Any]) -> Any:
    """numba's `intrinsic`, whose static type does not know that the typing context is not passed by the caller."""
    return intrinsic(function)


class FloatVector(types.Type):
    """numba's name for a vector of so many lanes."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")


@register_model(FloatVector)
class _FloatVectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _floats(numba_type.lanes))


def _floats(lanes: int) -> Any:
    return ir.VectorType(ir.FloatType(), lanes)


def _ints(lanes: int) -> Any:
    return ir.VectorType(ir.IntType(32), lanes)


def _pointer(context: Any, builder: Any, array_type: Any, args: Any) -> Any:
    """Address of `array[offset]`; an offset never counts from the end."""
    array = context.make_array(array_type)(context, builder, args[0])
    return cgutils.get_item_pointer(context, builder, array_type, array, [args[1]], wraparound=False)


@_operation
def constant(typing_context: Any, size: Any) -> Any:
    """The number that `size_of` was given, known to the compiler; an integer is passed on as it is."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(size, types.BaseTuple):
            return context.get_constant(types.intp, len(size))
        return context.cast(builder, args[0], signature.args[0], types.intp)

    return types.intp(size), emit


@_operation
def item(typing_context: Any, array: Any, offset: Any) -> Any:
    """`array[offset]` of a one-dimensional array, for an offset that is in it."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], args))

    return array.dtype(array, types.intp), emit


@_operation
def put(typing_context: Any, array: Any, offset: Any, value: Any) -> Any:
    """`array[offset] = value` of a one-dimensional array, for an offset that is in it."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, signature.args[0], args))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), emit


@_operation
def load(typing_context: Any, array: Any, offset: Any, lanes: Any) -> Any:
    """`array[offset : offset + lanes]` of a one-dimensional float32 array; `lanes` from `size_of`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args)
        return builder.load(builder.bitcast(pointer, ir.PointerType(_floats(len(lanes)))), align=4)

    return FloatVector(len(lanes))(array, types.intp, lanes), emit


@_operation
def store(typing_context: Any, array: Any, offset: Any, value: Any) -> Any:
    """`array[offset : offset + lanes] = value`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args)
        builder.store(args[2], builder.bitcast(pointer, ir.PointerType(_floats(value.lanes))), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


def _emit_broadcast(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(_floats(lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_ints(lanes), [0] * lanes))


@_operation
def broadcast(typing_context: Any, value: Any, lanes: Any) -> Any:
    """The same float32 in every lane; `lanes` from `size_of`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_broadcast(builder, args[0], len(lanes))

    return FloatVector(len(lanes))(types.float32, lanes), emit


@_operation
def like(typing_context: Any, vector: Any, value: Any) -> Any:
    """The same float32 in every lane, with as many lanes as `vector`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_broadcast(builder, args[1], vector.lanes)

    return vector(vector, types.float32), emit


def _lanewise(arity: int, emit_lanes: Callable[..., Any]) -> Any:
    """An operation on `arity` vectors that yields a vector."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_lanes(builder, signature.return_type.lanes, *args)

    def unary(typing_context: Any, a: Any) -> Any:
        return a(a), emit

    def binary(typing_context: Any, a: Any, b: Any) -> Any:
        return a(a, b), emit

    def ternary(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        return a(a, b, c), emit

    return _operation((unary, binary, ternary)[arity - 1])


def _call(name: str) -> Callable[..., Any]:
    """LLVM's own function `name` on vectors."""

    def emit(builder: Any, lanes: int, *args: Any) -> Any:
        function_type = ir.FunctionType(_floats(lanes), [_floats(lanes)] * len(args))
        full_name = f"llvm.{name}.v{lanes}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, full_name), args)

    return emit


def _emit_power_of_two(builder: Any, lanes: int, exponent: Any) -> Any:
    bias, shift = ir.Constant(_ints(lanes), [127] * lanes), ir.Constant(_ints(lanes), [23] * lanes)
    bits = builder.shl(builder.add(builder.fptosi(exponent, _ints(lanes)), bias), shift)
    return builder.bitcast(bits, _floats(lanes))


def _emit_compare(operator: str) -> Callable[..., Any]:
    def emit(builder: Any, lanes: int, a: Any, b: Any) -> Any:
        ones, zeros = (ir.Constant(_floats(lanes), [number] * lanes) for number in (1.0, 0.0))
        return builder.select(builder.fcmp_ordered(operator, a, b), ones, zeros)

    return emit


add = _lanewise(2, lambda builder, lanes, a, b: builder.fadd(a, b))
subtract = _lanewise(2, lambda builder, lanes, a, b: builder.fsub(a, b))
multiply = _lanewise(2, lambda builder, lanes, a, b: builder.fmul(a, b))
maximum = _lanewise(2, lambda builder, lanes, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
minimum = _lanewise(2, lambda builder, lanes, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
less = _lanewise(2, _emit_compare("<"))  # 1 where a < b, else 0
multiply_add = _lanewise(3, _call("fmuladd"))  # a·b + c
nearest = _lanewise(1, _call("rint"))  # whole number; halves to the even one
_floor = _lanewise(1, _call("floor"))
_power_of_two = _lanewise(1, _emit_power_of_two)  # of whole numbers from −127 (gives 0) to 128 (gives infinity)


@_operation
def sum_lanes(typing_context: Any, vector: Any) -> Any:
    """The sum of a vector's 1, 2, 4 or 8·n lanes."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        part = min(vector.lanes, 8)
        picks = [ir.Constant(_ints(part), list(range(at, at + part))) for at in range(0, vector.lanes, part)]
        total, *others = (builder.shuffle_vector(args[0], args[0], pick) for pick in picks)
        for other in others:
            total = builder.fadd(total, other)
        half = part // 2
        while half:
            moved = ir.Constant(_ints(part), [(lane + half) % part for lane in range(part)])
            total = builder.fadd(total, builder.shuffle_vector(total, total, moved))
            half //= 2
        return builder.extract_element(total, ir.IntType(32)(0))

    return types.float32(vector), emit


_F = np.float32
_LOWEST, _HIGHEST = _F(-88.0), _F(89.0)
_LOG2_E = _F(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _F(-0.693359375), _F(2.12194440e-4)  # together −ln 2; the first has few bits: n·it is exact
_C0, _C1, _C2, _C3, _C4, _C5 = _F(1 / 5040), _F(1 / 720), _F(1 / 120), _F(1 / 24), _F(1 / 6), _F(0.5)


@jit
def exp(x: Any) -> Any:
    """Exponential of each lane to about 1e-7; 0 below −88 and infinity above 88.4.

    `exp(x) = 2ⁿ · exp(r)` with `|r| ≤ ln 2 / 2`, where the Taylor series to the 7th power leaves less than 1e-8.
    """
    bounded = minimum(maximum(x, like(x, _LOWEST)), like(x, _HIGHEST))
    n = _floor(multiply_add(bounded, like(x, _LOG2_E), like(x, _F(0.5))))
    r = multiply_add(n, like(x, _LN2_LOW), multiply_add(n, like(x, _LN2_HIGH), bounded))
    y = multiply_add(r, like(x, _C0), like(x, _C1))
    y = multiply_add(r, y, like(x, _C2))
    y = multiply_add(r, y, like(x, _C3))
    y = multiply_add(r, y, like(x, _C4))
    y = multiply_add(r, y, like(x, _C5))
    y = multiply_add(r, y, like(x, _F(1.0)))
    y = multiply_add(r, y, like(x, _F(1.0)))
    return multiply(y, _power_of_two(n))
