"""Proof of a data set: every file is read, and labels and masks are held against each other.

Masks are opened here to be checked; nothing of them is handed on to training.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from weakclip.datasets.base import ImageLabelDataset, missing_classes
from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
from weakclip.datasets.images import used_values
from weakclip.errors import DataError
from weakclip.store.progress import track
from weakclip.store.threads import in_threads


class Kind(StrEnum):
    """The faults of a data set, in words."""

    LABEL_FILE = "mistake in labels or lists"
    COUNT = "another number of images than published"
    NEAR_NAMES = "two classes with nearly the same name"
    IMAGE = "image that cannot be read"
    LABELS = "labels that cannot be read"
    NO_LABELS = "training image without labels"
    MASK = "mask that cannot be read, of another size, or with an unknown class"
    NO_PIXEL = "class among the labels without a pixel in the mask"
    NO_LABEL = "class in the mask that is not among the labels"
    SAME_CONTENT = "same image under two names"
    NO_MASK = "image without a mask in a split with masks"
    SHARED = "image of another split too"
    BESIDE = "proposals or saliency maps that cannot be used"

    @property
    def advice(self) -> str:
        """The advice for it."""
        return ADVICE[self]


ADVICE = {
    Kind.LABEL_FILE: "correct the lines that are named, then check again: images and masks are read after that",
    Kind.COUNT: "fetch the files that are missing, or name another split with --split",
    Kind.NEAR_NAMES: "if they are one class, keep one name in the class file, and write the other under its `synonyms`",
    Kind.IMAGE: "save it anew from the original, or take it out of the folder and out of the labels",
    Kind.LABELS: "repair the file that is named",
    Kind.NO_LABELS: "add its labels, or take it out of the training list",
    Kind.MASK: "save it anew as a palette or grey PNG of its image's size, class indices as values; or delete it",
    Kind.NO_PIXEL: "take the label out, or draw the object with the index of its class; harmless where others hide it",
    Kind.NO_LABEL: "add the label: no mask is made of a class that the labels do not name",
    Kind.SAME_CONTENT: "keep one of the two, with the labels of both",
    Kind.NO_MASK: "put the mask there, or leave it so: the image is then not scored",
    Kind.BESIDE: "correct pseudo_masks.proposals.folder or pseudo_masks.saliency.folder, or make the files",
    Kind.SHARED: "take it out of one of the two lists; a score on images of the training says nothing",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: what kind of thing.
        split: where.
        image: the image's name; empty where it is about the whole split.
        detail: what was found and what was expected.
        lines: of a mistake in labels or lists, a line for each place where it is.
    """

    kind: Kind
    split: str
    image: str
    detail: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts about one image: its labels, the classes in its mask, and a digest of its file.

    Where something could not be read, it is None, and the findings say why.
    """

    name: str
    labels: tuple[int, ...] | None
    mask_classes: tuple[int, ...] | None
    digest: str | None
    findings: tuple[Finding, ...]

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask, be it one that cannot be read."""
        return self.mask_classes is not None or any(finding.kind == Kind.MASK for finding in self.findings)


@dataclass(frozen=True, kw_only=True)
class SplitCheck:
    """Facts about one split.

    Args:
        split: its name.
        official: how many images the published split has; None where there is no such number.
        class_set: the classes.
        notes: what the data set says of itself.
        truth: how its true masks came about, in words; empty where nothing need be said.
        facts: one an image, in the order of the data set.
        untagged: names of the training images that are left out because they have no labels.
        findings: all that is wrong, those of the facts among them.
    """

    split: str
    official: int | None
    class_set: ClassSet
    notes: tuple[str, ...]
    truth: str
    facts: tuple[ImageFacts, ...] = field(repr=False)
    untagged: tuple[str, ...] = ()
    findings: tuple[Finding, ...]

    @property
    def labelled(self) -> int:
        """How many images have image-level labels."""
        return sum(bool(fact.labels) for fact in self.facts)

    @property
    def masks(self) -> int:
        """How many images have a mask that was read."""
        return sum(fact.mask_classes is not None for fact in self.facts)

    def images_of_classes(self) -> dict[str, tuple[int, int]]:
        """For each class, how many images name it in their labels, and how many have pixels of it."""
        labels = Counter(label for fact in self.facts for label in fact.labels or ())
        pixels = Counter(index for fact in self.facts for index in fact.mask_classes or ())
        return {name: (labels[index], pixels[index]) for index, name in enumerate(self.class_set.names)}


def check_split(dataset: ImageLabelDataset, *, needs_labels: bool) -> SplitCheck:
    """Read every image, its labels and its mask.

    Args:
        dataset: the split.
        needs_labels: whether an image without labels is a finding, as in training.
    """

    def inspect(index: int) -> ImageFacts:
        return inspect_image(dataset, index, needs_labels=needs_labels)

    made = in_threads(inspect, range(len(dataset)))
    facts = tuple(track(made, f"checking {dataset.split}", total=len(dataset)))
    findings = [finding for fact in facts for finding in fact.findings]
    return SplitCheck(
        split=dataset.split,
        official=dataset.official_size,
        class_set=dataset.class_set,
        notes=dataset.notes,
        truth=dataset.truth,
        facts=facts,
        untagged=dataset.untagged,
        findings=(
            *_count_findings(dataset),
            *(Finding(Kind.NEAR_NAMES, dataset.split, "", names) for names in near_names(dataset.class_set)),
            *findings,
            *_without_mask(dataset.split, facts),
            *_same_content(dataset.split, facts),
        ),
    )


def inspect_image(dataset: ImageLabelDataset, index: int, *, needs_labels: bool) -> ImageFacts:
    """Read one image, its labels and its mask; what cannot be read becomes a finding.

    Args:
        dataset: the split.
        index: which image.
        needs_labels: whether it must have labels.
    """
    name, findings = dataset.names[index], list[Finding]()

    def found(kind: Kind, detail: str) -> None:
        findings.append(Finding(kind, dataset.split, name, detail))

    digest = labels = mask = None
    try:
        digest = _digest(dataset, index)
    except DataError as error:
        found(Kind.IMAGE, str(error))
    try:
        labels = dataset.labels(index)
    except DataError as error:
        found(Kind.LABELS, str(error))
    try:
        mask = dataset.mask(index) if digest else None
    except DataError as error:
        found(Kind.MASK, str(error))
    if needs_labels and labels == ():
        found(Kind.NO_LABELS, "no class is named; training learns only from the labels")
    classes = None if mask is None else tuple(value for value in used_values(mask) if value != IGNORE_INDEX)
    if mask is not None and classes is not None and labels:
        for kind, indices in ((Kind.NO_PIXEL, set(labels) - {*classes}), (Kind.NO_LABEL, {*classes} - {0, *labels})):
            if indices:
                names = ", ".join(dataset.class_set.names[index] for index in sorted(indices))
                why = missing_classes(mask, labels, dataset.class_set) if classes == (0,) else ""
                found(kind, f"{names}; {why}" if why else names)
    return ImageFacts(name, labels, classes, digest, tuple(findings))


def shared_images(first: SplitCheck, second: SplitCheck) -> tuple[Finding, ...]:
    """Images that are in both splits, by name or by content: trained on one, a score on the other would not be one of
    unseen images. The findings are the second's."""
    names = {fact.name for fact in first.facts}
    by_content = {fact.digest: fact.name for fact in first.facts if fact.digest}
    findings = []
    for fact in second.facts:
        twin = fact.name if fact.name in names else by_content.get(fact.digest) if fact.digest else None
        if twin is not None:
            findings.append(Finding(Kind.SHARED, second.split, fact.name, f"is {twin} of {first.split}"))
    return tuple(findings)


def _digest(dataset: ImageLabelDataset, index: int) -> str:
    """Digest of the image file, or of the pixels of a drawn image; the whole image is decoded."""
    pixels, file = dataset.image(index), dataset.image_file(index)
    content = pixels.tobytes() if file is None else file.read_bytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _count_findings(dataset: ImageLabelDataset) -> Iterator[Finding]:
    if dataset.official_size not in (None, len(dataset)):
        detail = f"{len(dataset):,} images; the published split has {dataset.official_size:,}"
        yield Finding(Kind.COUNT, dataset.split, "", detail)


def near_names(class_set: ClassSet) -> list[str]:
    """Names of classes that differ in case, spaces and joining signs only, those of a group together."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in class_set.names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups["".join(letter for letter in plain if letter not in " _-.")].append(name)
    return [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]


def _without_mask(split: str, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    """Of a split in which some images have a mask; a split without any is sound. Of an image that cannot be read the
    mask is not looked at."""
    read = [fact for fact in facts if fact.digest]
    masked = sum(fact.has_mask for fact in read)
    for fact in read if masked else ():
        if not fact.has_mask:
            yield Finding(Kind.NO_MASK, split, fact.name, f"no mask; {masked:,} of the {len(facts):,} images have one")


def _same_content(split: str, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for fact in facts:
        if fact.digest and first.setdefault(fact.digest, fact.name) != fact.name:
            yield Finding(Kind.SAME_CONTENT, split, fact.name, f"is {first[fact.digest]}, byte for byte")
