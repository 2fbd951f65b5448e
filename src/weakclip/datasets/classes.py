"""The words of a data set: class names, text prompts, colours and ids. No torch here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from weakclip.errors import DataError
from weakclip.store.untrusted_text import is_plain, short

IGNORE_INDEX = 255
"""Mask value of a pixel that belongs to no class: never trained on, never scored."""

BACKGROUND = "background"

LONGEST_NAME = 200
"""Characters of a class name at most; names stand in tables, file heads and pages."""


def voc_palette(num_colors: int = 256) -> np.ndarray:
    """Colours of the PASCAL VOC devkit: the bits of the class index, dealt out to red, green and blue.

    Args:
        num_colors: how many colours, 1 to 256.

    Returns:
        `(num_colors, 3)` uint8.

    >>> voc_palette(3).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    index = np.arange(num_colors)
    palette = np.zeros((num_colors, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


@dataclass(frozen=True, kw_only=True)
class ClassSet:
    """The classes of a data set, background first.

    Args:
        names: one name a class; index 0 is the background. WeakCLIP's learnable prompt is put before these words.
        prompts: words of each class for zero-shot use (seeds, tagging); the names where left out.
        background_prompts: words for what surrounds the objects; Grad-CAM seeds hold classes against them.
        colors: `(K, 3)` RGB triples for masks and overlays; the VOC palette where left out.
        ids: the id of each class in the data set's own files (COCO); 0…K-1 where left out.

    Raises:
        DataError: fewer than two classes, more than 255, an empty, repeated or over-long name or one with control
            characters, a repeated id, a colour beyond 0…255, or lists of unequal length.

    >>> ClassSet.from_foreground(["cat", "dog"]).index("dog")
    2
    """

    names: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    background_prompts: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 2 <= count <= 255:
            raise DataError(f"a class set has 2 to 255 classes with the background; found {count}")
        if any(not name.strip() for name in self.names):
            raise DataError("a class set has an empty class name; every class needs a name")
        odd = [name for name in self.names if len(name) > LONGEST_NAME or not is_plain(name)]
        if odd:
            expected = f"{LONGEST_NAME} characters at most, none of them a control character"
            raise DataError(f"class name {short(odd[0])}: {expected}; give it another name")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise DataError(f"class names must differ; found {', '.join(repeated)} more than once")
        defaults = {
            "prompts": self.names,
            "colors": tuple(map(tuple, voc_palette(count).tolist())),
            "ids": tuple(range(count)),
        }
        for field, default in defaults.items():
            if not getattr(self, field):
                object.__setattr__(self, field, default)
            elif len(getattr(self, field)) != count:
                raise DataError(f"class set: {field} has {len(getattr(self, field))} entries for {count} classes")
        if len(set(self.ids)) != count:
            raise DataError("class ids must differ")
        for name, color in zip(self.names, self.colors, strict=True):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise DataError(f"class {name!r}: a colour is three numbers 0 to 255; found {tuple(color)}")

    @classmethod
    def from_foreground(cls, names: Sequence[str], background_prompts: Sequence[str] = ()) -> ClassSet:
        """A class set from the foreground names; the background is added as class 0."""
        return cls(names=(BACKGROUND, *names), background_prompts=tuple(background_prompts))

    @property
    def num_classes(self) -> int:
        """`K`, with the background."""
        return len(self.names)

    @property
    def palette(self) -> np.ndarray:
        """`(256, 3)` uint8 for palette PNGs: the class colours, then the VOC palette; index 255 is VOC's cream."""
        palette = voc_palette(256)
        palette[: self.num_classes] = self.colors
        return palette

    def index(self, name: str) -> int:
        """The index of a class name.

        Raises:
            DataError: no such class; the nearest name is suggested.
        """
        try:
            return self.names.index(name)
        except ValueError:
            near = difflib.get_close_matches(name, self.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known classes: {', '.join(self.names[1:])}"
            raise DataError(f"unknown class {name!r}; {hint}") from None

    def foreground_indices(self, names: Iterable[str]) -> tuple[int, ...]:
        """Ascending, unique indices of foreground class names. The background is no image-level label.

        Raises:
            DataError: an unknown class, or the background.
        """
        indices = {self.index(name) for name in names}
        if 0 in indices:
            raise DataError(f"{self.names[0]!r} is not an image-level label; leave it out, every image has it")
        return tuple(sorted(indices))


BACKGROUND_PROMPTS = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea", "railway"),
    *("railroad", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock", "street", "valley", "bridge"),
)
"""Words for what surrounds everyday objects (Lin et al., CVPR 2023, for MS COCO)."""

VOC12 = ClassSet(
    names=(
        BACKGROUND,
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    ),
    prompts=(
        BACKGROUND,
        *("aeroplane", "bicycle", "bird avian", "boat", "bottle", "bus", "car", "cat", "chair seat", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person with clothes,people,human", "pottedplant", "sheep"),
        *("sofa", "train", "tvmonitor screen"),
    ),
    background_prompts=(*BACKGROUND_PROMPTS, "keyboard", "sign"),
)
"""PASCAL VOC 2012, 20 classes and background: names and order of the devkit (Everingham et al., IJCV 2010); prompts and
background prompts are the sharpened words of CLIP-ES (Lin et al., CVPR 2023)."""

_COCO_THINGS = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
_COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_WORDS = {
    "person": "person with clothes,people,human",
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "bird": "bird avian",
    "backpack": "backpack,bag",
    "umbrella": "umbrella,parasol",
    "handbag": "handbag,purse",
    "tie": "necktie",
    "baseball glove": "glove",
    "spoon": "dessertspoon",
    "chair": "chair seat",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor screen",
    "remote": "remote control",
    "hair drier": "hairdrier,blowdrier",
}
"""Words for zero-shot use, where they differ from the name."""

COCO14 = ClassSet(
    names=(BACKGROUND, *_COCO_THINGS),
    prompts=(BACKGROUND, *(_COCO_WORDS.get(name, name) for name in _COCO_THINGS)),
    background_prompts=BACKGROUND_PROMPTS,
    ids=tuple(identity for identity in range(91) if identity not in _COCO_UNUSED_IDS),
)
"""MS COCO 2014, 80 things and background: ids and names of the instances files (Lin et al., ECCV 2014), 10 of the ids
from 1 to 90 unused; prompts and background prompts are the sharpened words of CLIP-ES (Lin et al., CVPR 2023)."""
