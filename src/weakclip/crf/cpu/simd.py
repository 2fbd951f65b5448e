"""A short vector of float32 or int64 for numba, so that loops over labels and pixels become SIMD code on any processor.

LLVM does not vectorise plain loops over two rows of one array well: it cannot rule out that they overlap. Here the
vector is a type of its own, and LLVM lowers it to the instructions of the processor.

An operation such as `load` is a numba intrinsic. Its arguments are numba's types when the code is compiled. It returns
the signature for these types and `emit`, which writes LLVM instructions for the values.

How many lanes a vector has, and how often a short loop runs, must be known when the code is compiled. Such numbers
are passed as tuples of that length, `size_of(8)`, since a tuple's length is part of its type.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

Context: TypeAlias = Any  # numba's typing context or target context
Builder: TypeAlias = ir.IRBuilder
Value: TypeAlias = ir.Value
Values: TypeAlias = tuple[Value, ...]
LlvmType: TypeAlias = ir.Type
NumbaType: TypeAlias = Any  # numba's type of an argument: an array, a number, a Vector, a tuple from `size_of`
Signature: TypeAlias = Any  # numba's signature: the types of the arguments and of the result
Typing: TypeAlias = tuple[Signature, Callable[..., Value]]
"""The answer of an operation to numba: its signature for the given types, and the function that emits its code."""

_LITTLE_ENDIAN = sys.byteorder == "little"


def size_of(number: int) -> tuple[int, ...]:
    """A number that compiled code sees as a constant."""
    return (0,) * number


def operation(function: Callable[..., Any]) -> Any:
    """numba's `intrinsic`, whose static type does not know that the typing context is not passed by the caller."""
    return intrinsic(function)


class Vector(types.Type):
    """numba's type for a vector of `lanes` numbers of float32 or int64."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"{element}x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Context, numba_type: NumbaType) -> None:
        super().__init__(manager, numba_type, lanes_of(numba_type))


def lanes_of(vector: Vector) -> LlvmType:
    """LLVM's type of a vector."""
    return (floats_of if vector.element == types.float32 else longs_of)(vector.lanes)


def floats_of(lanes: int) -> LlvmType:
    """LLVM's type of a vector of float32."""
    return ir.VectorType(ir.FloatType(), lanes)


def ints_of(lanes: int) -> LlvmType:
    """LLVM's type of a vector of int32."""
    return ir.VectorType(ir.IntType(32), lanes)


def longs_of(lanes: int) -> LlvmType:
    """LLVM's type of a vector of int64."""
    return ir.VectorType(ir.IntType(64), lanes)


def _pointer(context: Context, builder: Builder, array_type: NumbaType, args: Values) -> Value:
    """Address of `array[offset]`; an offset never counts from the end."""
    array = context.make_array(array_type)(context, builder, args[0])
    return cgutils.get_item_pointer(context, builder, array_type, array, [args[1]], wraparound=False)


@operation
def constant(typing_context: Context, size: NumbaType) -> Typing:
    """The number that `size_of` was given, known to the compiler; an integer is passed on as it is."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        if isinstance(size, types.BaseTuple):
            return context.get_constant(types.intp, len(size))
        return context.cast(builder, args[0], signature.args[0], types.intp)

    return types.intp(size), emit


@operation
def has_bytes(typing_context: Context, array: NumbaType) -> Typing:
    """Whether an array is of uint8, known to the compiler."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        return context.get_constant(types.boolean, array.dtype == types.uint8)

    return types.boolean(array), emit


@operation
def item(typing_context: Context, array: NumbaType, offset: NumbaType) -> Typing:
    """`array[offset]` of a one-dimensional array, for an offset that is in it."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        return builder.load(_pointer(context, builder, signature.args[0], args))

    return array.dtype(array, types.intp), emit


@operation
def item_pair(typing_context: Context, array: NumbaType, offset: NumbaType) -> Typing:
    """`array[offset], array[offset + 1]` of a one-dimensional uint32 array in one load."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        long = ir.IntType(64)
        pointer = builder.bitcast(_pointer(context, builder, signature.args[0], args), ir.PointerType(long))
        both = builder.load(pointer, align=4)
        halves = [builder.and_(both, long(2**32 - 1)), builder.lshr(both, long(32))]
        return context.make_tuple(builder, signature.return_type, halves if _LITTLE_ENDIAN else halves[::-1])

    return types.UniTuple(types.int64, 2)(array, types.intp), emit


@operation
def put(typing_context: Context, array: NumbaType, offset: NumbaType, value: NumbaType) -> Typing:
    """`array[offset] = value` of a one-dimensional array, for an offset that is in it."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        builder.store(args[2], _pointer(context, builder, signature.args[0], args))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), emit


@operation
def load(typing_context: Context, array: NumbaType, offset: NumbaType, lanes: NumbaType) -> Typing:
    """`array[offset : offset + lanes]` of a one-dimensional array of float32 or int64; `lanes` from `size_of`."""
    vector = Vector(array.dtype, len(lanes))

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        pointer = _pointer(context, builder, signature.args[0], args)
        return builder.load(builder.bitcast(pointer, ir.PointerType(lanes_of(vector))), align=4)

    return vector(array, types.intp, lanes), emit


@operation
def store(typing_context: Context, array: NumbaType, offset: NumbaType, value: NumbaType) -> Typing:
    """`array[offset : offset + lanes] = value`."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        pointer = _pointer(context, builder, signature.args[0], args)
        builder.store(args[2], builder.bitcast(pointer, ir.PointerType(lanes_of(value))), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@operation
def transpose(
    typing_context: Context, source: NumbaType, froms: NumbaType, target: NumbaType, tos: NumbaType
) -> Typing:
    """`target[tos[j] + i] = source[froms[i] + j]` for i and j below 4, in arrays of float32; the last j goes first."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        pointer_type, picks = ir.PointerType(floats_of(4)), ((0, 4, 1, 5), (2, 6, 3, 7))
        rows = []
        for place in cgutils.unpack_tuple(builder, args[1]):
            pointer = _pointer(context, builder, signature.args[0], (args[0], place))
            rows.append(builder.load(builder.bitcast(pointer, pointer_type), align=4))
        # A 4×4 transposition is the same shuffle twice: interleave rows 0 with 2 and 1 with 3, low and high halves.
        for _ in range(2):
            pairs = [(rows[i], rows[i + 2], ir.Constant(ints_of(4), pick)) for i in range(2) for pick in picks]
            rows = [builder.shuffle_vector(*pair) for pair in pairs]
        for row, place in reversed(list(zip(rows, cgutils.unpack_tuple(builder, args[3]), strict=True))):
            pointer = _pointer(context, builder, signature.args[2], (args[2], place))
            builder.store(row, builder.bitcast(pointer, pointer_type), align=4)
        return context.get_dummy_value()

    places = types.UniTuple(types.intp, 4)
    return types.void(source, places, target, places), emit


def _emit_broadcast(builder: Builder, value: Value, vector: Vector) -> Value:
    undefined = ir.Constant(lanes_of(vector), ir.Undefined)
    # LLVM has no instruction for it: put the value into lane 0, then let a shuffle take lane 0 for all.
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ints_of(vector.lanes), [0] * vector.lanes))


@operation
def broadcast(typing_context: Context, value: NumbaType, lanes: NumbaType) -> Typing:
    """The same float32 or int64 in every lane; `lanes` from `size_of`."""
    vector = Vector(value, len(lanes))

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        return _emit_broadcast(builder, args[0], vector)

    return vector(value, lanes), emit


@operation
def like(typing_context: Context, vector: NumbaType, value: NumbaType) -> Typing:
    """The same number in every lane, with as many lanes as `vector`."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        return _emit_broadcast(builder, args[1], vector)

    return vector(vector, vector.element), emit
