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


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile without the GIL and without fastmath; cached on disk where some cache directory can be written."""
    settings = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, **options}
    try:
        return numba.njit(function, cache=True, **settings)
    except RuntimeError:  # numba found no directory for its cache: compile anew in each process
        return numba.njit(function, **settings)


def inner_jit(function: Callable[..., Any]) -> Any:
    """`jit` for what compiled code alone calls: it compiles sooner."""
    return jit(function, no_cpython_wrapper=True)


def size_of(number: int) -> tuple[int, ...]:
    """A number that compiled code sees as a constant."""
    return (0,) * number


def _operation(function: Callable[..., Any]) -> Any:
    """numba's `intrinsic`, whose static type does not know that the typing context is not passed by the caller."""
    return intrinsic(function)


class Vector(types.Type):
    """numba's name for a vector of so many lanes of float32 or int64."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"{element}x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _lanes_of(numba_type))


def _lanes_of(vector: Vector) -> Any:
    return (_floats if vector.element == types.float32 else _longs)(vector.lanes)


def _floats(lanes: int) -> Any:
    return ir.VectorType(ir.FloatType(), lanes)


def _ints(lanes: int) -> Any:
    return ir.VectorType(ir.IntType(32), lanes)


def _longs(lanes: int) -> Any:
    return ir.VectorType(ir.IntType(64), lanes)


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
def has_bytes(typing_context: Any, array: Any) -> Any:
    """Whether an array is of uint8, known to the compiler."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.boolean, array.dtype == types.uint8)

    return types.boolean(array), emit


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
    """`array[offset : offset + lanes]` of a one-dimensional array of float32 or int64; `lanes` from `size_of`."""
    vector = Vector(array.dtype, len(lanes))

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args)
        return builder.load(builder.bitcast(pointer, ir.PointerType(_lanes_of(vector))), align=4)

    return vector(array, types.intp, lanes), emit


@_operation
def store(typing_context: Any, array: Any, offset: Any, value: Any) -> Any:
    """`array[offset : offset + lanes] = value`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args)
        builder.store(args[2], builder.bitcast(pointer, ir.PointerType(_lanes_of(value))), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@_operation
def transpose(typing_context: Any, source: Any, froms: Any, target: Any, tos: Any) -> Any:
    """`target[tos[j] + i] = source[froms[i] + j]` for i and j below 4, in arrays of float32; the last `tos` goes first."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer_type, picks = ir.PointerType(_floats(4)), ((0, 4, 1, 5), (2, 6, 3, 7))
        rows = []
        for place in cgutils.unpack_tuple(builder, args[1]):
            pointer = _pointer(context, builder, signature.args[0], (args[0], place))
            rows.append(builder.load(builder.bitcast(pointer, pointer_type), align=4))
        for _ in range(2):  # a perfect shuffle, twice
            pairs = [(rows[i], rows[i + 2], ir.Constant(_ints(4), pick)) for i in range(2) for pick in picks]
            rows = [builder.shuffle_vector(*pair) for pair in pairs]
        for row, place in reversed(list(zip(rows, cgutils.unpack_tuple(builder, args[3]), strict=True))):
            pointer = _pointer(context, builder, signature.args[2], (args[2], place))
            builder.store(row, builder.bitcast(pointer, pointer_type), align=4)
        return context.get_dummy_value()

    places = types.UniTuple(types.intp, 4)
    return types.void(source, places, target, places), emit


def _emit_broadcast(builder: Any, value: Any, vector: Vector) -> Any:
    undefined = ir.Constant(_lanes_of(vector), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_ints(vector.lanes), [0] * vector.lanes))


@_operation
def broadcast(typing_context: Any, value: Any, lanes: Any) -> Any:
    """The same float32 or int64 in every lane; `lanes` from `size_of`."""
    vector = Vector(value, len(lanes))

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_broadcast(builder, args[0], vector)

    return vector(value, lanes), emit


@_operation
def like(typing_context: Any, vector: Any, value: Any) -> Any:
    """The same number in every lane, with as many lanes as `vector`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_broadcast(builder, args[1], vector)

    return vector(vector, vector.element), emit


def _lanewise(arity: int, emit_lanes: Callable[..., Any], element: Any = None) -> Any:
    """An operation on `arity` vectors that yields a vector of the last one's type, or of other elements."""

    def result(last: Any) -> Any:
        return last if element is None else Vector(element, last.lanes)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_lanes(builder, signature.return_type, *args)

    def unary(typing_context: Any, a: Any) -> Any:
        return result(a)(a), emit

    def binary(typing_context: Any, a: Any, b: Any) -> Any:
        return result(b)(a, b), emit

    def ternary(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        return result(c)(a, b, c), emit

    def quaternary(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return result(d)(a, b, c, d), emit

    return _operation((unary, binary, ternary, quaternary)[arity - 1])


def _by_element(floats: str, longs: str) -> Callable[..., Any]:
    """An instruction of LLVM by its name for either kind of element."""

    def emit(builder: Any, vector: Vector, *args: Any) -> Any:
        return getattr(builder, floats if vector.element == types.float32 else longs)(*args)

    return emit


def _call(name: str) -> Callable[..., Any]:
    """LLVM's own function `name` on vectors of float32."""

    def emit(builder: Any, vector: Vector, *args: Any) -> Any:
        function_type = ir.FunctionType(_lanes_of(vector), [_lanes_of(vector)] * len(args))
        full_name = f"llvm.{name}.v{vector.lanes}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, full_name), args)

    return emit


def _emit_exponent(builder: Any, vector: Vector, number: Any) -> Any:
    bits = builder.bitcast(number, _ints(vector.lanes))
    shifted = builder.shl(bits, ir.Constant(_ints(vector.lanes), [23] * vector.lanes))
    return builder.bitcast(shifted, _lanes_of(vector))


def _emit_choose(operator: str) -> Callable[..., Any]:
    def emit(builder: Any, vector: Vector, a: Any, b: Any, then: Any, otherwise: Any) -> Any:
        return builder.select(builder.fcmp_ordered(operator, a, b), then, otherwise)

    return emit


def _emit_whole(builder: Any, vector: Vector, number: Any) -> Any:
    return builder.sext(builder.fptosi(number, _ints(vector.lanes)), _lanes_of(vector))


add = _lanewise(2, _by_element("fadd", "add"))
subtract = _lanewise(2, _by_element("fsub", "sub"))
multiply = _lanewise(2, _by_element("fmul", "mul"))
divide = _lanewise(2, _by_element("fdiv", "sdiv"))
bits_and = _lanewise(2, lambda builder, vector, a, b: builder.and_(a, b))  # of int64
shift_right = _lanewise(2, lambda builder, vector, a, b: builder.ashr(a, b))  # of int64
maximum = _lanewise(2, lambda builder, vector, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
minimum = _lanewise(2, lambda builder, vector, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
where_less = _lanewise(4, _emit_choose("<"))  # the third where a < b, else the fourth; a and b are float32
where_equal = _lanewise(4, _emit_choose("=="))  # the third where a = b, else the fourth; a and b are float32
multiply_add = _lanewise(3, _call("fmuladd"))  # a·b + c
nearest = _lanewise(1, _call("rint"))  # whole number; halves to the even one
whole = _lanewise(1, _emit_whole, types.int64)  # of float32 within 32 bits
_exponent = _lanewise(1, _emit_exponent)  # a float32's last bits as its exponent


@_operation
def sum_groups(typing_context: Any, vector: Any, size: Any) -> Any:
    """In every lane, the sum of the `size` lanes of its group, a power of two; from `size_of`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, half = args[0], len(size) // 2
        while half:
            moved = ir.Constant(_ints(vector.lanes), [lane ^ half for lane in range(vector.lanes)])
            total = builder.fadd(total, builder.shuffle_vector(total, total, moved))
            half //= 2
        return total

    return vector(vector, size), emit


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


@_operation
def lowest_lane(typing_context: Any, vector: Any) -> Any:
    """The lowest of a vector's lanes."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lowest, *others = (builder.extract_element(args[0], ir.IntType(32)(lane)) for lane in range(vector.lanes))
        for other in others:
            lowest = builder.select(builder.fcmp_ordered("<", other, lowest), other, lowest)
        return lowest

    return types.float32(vector), emit


_F = np.float32
_HIGHEST = _F(89.0)
_LOG2_E = _F(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _F(-0.693359375), _F(2.12194440e-4)  # together −ln 2; the first has few bits: n·it is exact
_SHIFT = _F(1.5 * 2**23 + 127)  # a number added to it is rounded to a whole one, and ends in the bits of an exponent
_C6, _C5, _C4 = _F(0.0013933732407167554), _F(0.008363235741853714), _F(0.041666463017463684)
_C3, _C2 = _F(0.16666576266288757), _F(0.5)


@inner_jit
def exp(x: Any) -> Any:
    """Exponential of each lane to about 1e-7, for x ≥ −87; infinity above 88.4.

    `exp(x) = 2ⁿ · exp(r)` with `|r| ≤ ln 2 / 2`; there a polynomial through the Chebyshev nodes of
    `(exp(r) − 1 − r) / r²` leaves 1e-8.
    """
    bounded = minimum(x, like(x, _HIGHEST))
    shifted = multiply_add(bounded, like(x, _LOG2_E), like(x, _SHIFT))
    n = subtract(shifted, like(x, _SHIFT))
    r = multiply_add(n, like(x, _LN2_LOW), multiply_add(n, like(x, _LN2_HIGH), bounded))
    y = multiply_add(r, like(x, _C6), like(x, _C5))
    y = multiply_add(r, y, like(x, _C4))
    y = multiply_add(r, y, like(x, _C3))
    y = multiply_add(r, y, like(x, _C2))
    y = multiply_add(r, y, like(x, _F(1.0)))
    y = multiply_add(r, y, like(x, _F(1.0)))
    return multiply(y, _exponent(shifted))
