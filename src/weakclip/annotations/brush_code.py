"""The run-length code of Label Studio's brush: a bit stream of the four channels of an image, as bytes in a list.

The stream is that of thi.ng's `rle-pack`: 32 bits with the number of values, 5 with the bits of a value less one, four
times 4 with the bits of a length less one; then blocks. A block is one bit (1: one value many times, 0: that many
values), 2 bits that choose a length's bits, the length less one, and the value or values. The values are red, green,
blue and alpha of every pixel along the rows; a pixel belongs to the region where alpha is not 0.

References:
    github.com/thi-ng/umbrella, packages/rle-pack; github.com/HumanSignal/label-studio-converter, brush.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from weakclip.datasets.regions import encode_runs

_CHANNELS = 4
_LENGTH_BITS = (3, 4, 8, 16)
_VALUE_BITS = 8


def encode_brush(pixels: np.ndarray) -> list[int]:
    """The code of a region.

    Args:
        pixels: `(H, W)` bool.

    Returns:
        Bytes, 0…255.
    """
    bits = [f"{pixels.size * _CHANNELS:032b}", f"{_VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in _LENGTH_BITS)]
    for index, run in enumerate(encode_runs(pixels, order="C")):
        value = f"{255 * (index % 2):0{_VALUE_BITS}b}"
        bits += [f"1{_length(part)}{value}" for part in _parts(run * _CHANNELS)]
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def _parts(run: int) -> Iterator[int]:
    """A run in lengths that the largest number of bits can say."""
    largest = 2 ** _LENGTH_BITS[-1]
    while run > 0:
        yield min(run, largest)
        run -= largest


def _length(run: int) -> str:
    choice = next(index for index, bits in enumerate(_LENGTH_BITS) if run <= 2**bits)
    return f"{choice:02b}{run - 1:0{_LENGTH_BITS[choice]}b}"


def decode_brush(code: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The region of a code.

    Args:
        code: bytes, 0…255.
        size: height and width.

    Returns:
        `(H, W)` bool.

    Raises:
        ValueError, TypeError: a code that is cut off, damaged, or of another size, or none.
    """
    stream = _Bits(bytes(list(code)))  # of a number, `bytes` makes as many zeros
    count, value_bits = stream.take(32), stream.take(5) + 1
    length_bits = [stream.take(4) + 1 for _ in range(4)]
    if count != size[0] * size[1] * _CHANNELS:
        raise ValueError(f"brush code of {count} values; expected {_CHANNELS} for each of {size[1]}x{size[0]} pixels")
    values = np.zeros(count, dtype=np.uint32)
    at = 0
    while at < count:
        repeated = stream.take(1)
        end = at + 1 + stream.take(length_bits[stream.take(2)])
        if end > count:
            raise ValueError("brush code has more values than it says")
        values[at:end] = stream.take(value_bits) if repeated else [stream.take(value_bits) for _ in range(at, end)]
        at = end
    alpha: np.ndarray = values.reshape(*size, _CHANNELS)[..., -1] > 0
    return alpha


class _Bits:
    """Numbers from a stream of bits, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, bits: int) -> int:
        """The next number of the given bits."""
        end = self._at + bits
        if end > 8 * len(self._data):
            raise ValueError("brush code is cut off")
        covering = self._data[self._at // 8 : -(-end // 8)]
        self._at = end
        return int.from_bytes(covering, "big") >> (-end % 8) & ((1 << bits) - 1)
