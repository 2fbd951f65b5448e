"""Random input of every kind: what is not taken is refused by an error of the package in one line; what is taken is as
it was given. The cases are drawn anew by nobody: the same ones in every run."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weakclip.config import RunConfig, dump_config, load_config, parse_config
from weakclip.crf import LOSS_CRF, CRFParams, dense_crf
from weakclip.crf.params import Kernel
from weakclip.datasets import Sample
from weakclip.datasets.class_files import read_class_file
from weakclip.datasets.classes import ClassSet, voc_palette
from weakclip.datasets.images import read_mask, write_mask
from weakclip.datasets.label_files import LabelRow, read_label_rows
from weakclip.errors import ConfigError, DataError, WeakCLIPError
from weakclip.seeds import ImportedCAMs, ImportedMasks, SeedSettings, seed_masks
from weakclip.store.untrusted_text import is_plain, one_line, parse_yaml, short

settings.register_profile(
    "same",
    derandomize=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
settings.load_profile("same")

texts = st.text(max_size=20)
names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda part: st.lists(part, max_size=3) | st.dictionaries(texts, part, max_size=3), max_leaves=6
)


def refused(work: Callable[[], object], kind: type[WeakCLIPError] = WeakCLIPError) -> bool:
    """Whether it is refused, and then as it should be; any other exception is the test's."""
    said = ""
    try:
        work()
    except kind as error:
        said = str(error)
    assert "\n" not in said and len(said) < 2000
    return bool(said)


def keys(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [prefix] if prefix else []
    if dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            found += keys(getattr(value, entry.name), (*prefix, entry.name))
    return found


DEMO = load_config("demo")
PLAIN = yaml.safe_load(dump_config(DEMO))
KEYS = keys(DEMO)


@given(st.sampled_from(KEYS), values)
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(key: tuple[str, ...], value: Any) -> None:
    content = copy.deepcopy(PLAIN)
    part = content
    for name in key[:-1]:
        part = part[name]
        assume(isinstance(part, dict))
    part[key[-1]] = value

    def build() -> None:
        config = parse_config(content, origin="random")
        assert parse_config(yaml.safe_load(dump_config(config)), origin="again") == config

    refused(build, ConfigError)


@given(st.lists(st.tuples(st.sampled_from(KEYS), scalars), max_size=3), st.text(max_size=30))
def test_any_override_is_taken_or_refused_in_one_line(
    tmp_path: Path, pairs: list[tuple[tuple[str, ...], Any]], loose: str
) -> None:
    (tmp_path / "small.yaml").write_text("data: {dataset: scenes}\n")
    overrides = [f"{'.'.join(key)}={json.dumps(value)}" for key, value in pairs]
    refused(lambda: load_config(tmp_path / "small.yaml", overrides), ConfigError)
    refused(lambda: load_config(tmp_path / "small.yaml", [loose]), ConfigError)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_a_configuration_or_not(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "random.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    assert refused(lambda: load_config(path), ConfigError)
    refused(lambda: read_class_file(path), DataError)


@given(values)
def test_plain_values_come_back_from_yaml(value: Any) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert repr(parse_yaml(text)) == repr(yaml.safe_load(text))


@given(st.text(max_size=50))
def test_one_line_is_one_plain_line(text: str) -> None:
    assert is_plain(one_line(text)) and "\n" not in one_line(text)
    one_line(text).encode()
    assert len(short(text)) <= 200
    assert not is_plain(text) or one_line(text) == " ".join(text.split())


cells = st.text(st.characters(exclude_categories=("Cs",)), max_size=15)


@given(st.lists(st.tuples(names, st.lists(names, min_size=1, max_size=3)), min_size=1, max_size=5), st.booleans())
def test_labels_that_are_written_come_back(tmp_path: Path, rows: list[tuple[str, list[str]]], as_json: bool) -> None:
    rows = [(image, [name for name in labels if not {";", ","} & set(name)]) for image, labels in rows]
    rows = [(image, labels) for image, labels in rows if labels]
    path = tmp_path / ("labels.jsonl" if as_json else "labels.csv")
    if as_json:
        path.write_text("\n".join(json.dumps({"image": image, "labels": labels}) for image, labels in rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["image", "labels"], *((image, ";".join(labels)) for image, labels in rows)])
    read: list[LabelRow] = read_label_rows(path)
    assert [(row.image, list(row.labels)) for row in read] == rows


@given(st.lists(st.lists(cells, max_size=4), max_size=6), st.sampled_from(["image,labels", "labels;image;x", ""]))
def test_any_table_is_read_or_refused_in_one_line(tmp_path: Path, rows: list[list[str]], header: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    (tmp_path / "labels.csv").write_text(f"{header}\n{file.getvalue()}", encoding="utf-8", newline="")
    refused(lambda: read_label_rows(tmp_path / "labels.csv"), DataError)
    (tmp_path / "labels.csv").write_text(header + "\n" + "\n".join(map("".join, rows)), encoding="utf-8")
    refused(lambda: read_label_rows(tmp_path / "labels.csv"), DataError)


@given(st.lists(values, max_size=4))
def test_any_json_lines_are_read_or_refused_in_one_line(tmp_path: Path, lines: list[Any]) -> None:
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    refused(lambda: read_label_rows(tmp_path / "labels.jsonl"), DataError)
    told = [{"image": value, "labels": [value]} for value in lines]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, told)))
    refused(lambda: read_label_rows(tmp_path / "labels.jsonl"), DataError)


@given(
    st.lists(names, min_size=1, max_size=5, unique=True),
    st.dictionaries(st.sampled_from(["names", "synonyms", "prompts", "background_prompts", "colors", "x"]), values),
)
def test_classes_that_are_written_come_back(tmp_path: Path, classes: list[str], changes: dict[str, Any]) -> None:
    assume("background" not in classes)
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump({"names": classes}, allow_unicode=True), encoding="utf-8")
    assert read_class_file(path).class_set.names == ("background", *classes)
    path.write_text(yaml.safe_dump({"names": classes, **changes}, allow_unicode=True), encoding="utf-8")

    def read() -> None:
        found = read_class_file(path).class_set
        assert all(is_plain(name) for name in found.names) and found.palette.shape == (256, 3)

    refused(read, DataError)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_palette_png_comes_back_as_it_was(tmp_path: Path, mask: np.ndarray) -> None:
    write_mask(tmp_path / "m.png", mask, voc_palette())
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)


FLOATS = st.sampled_from([0.0, 1.0, 1e-30, 1e-45, 1e30, 3e38, -1.0, np.nan, np.inf, -np.inf, 0.5, 1e-7])


@st.composite
def crf_inputs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """An image and probabilities: constant, at the ends of their range, not normalised, not finite."""
    labels = draw(st.sampled_from([1, 2, 3, 5, 21, 100]))
    height, width = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if draw(st.booleans()):
        image[:] = draw(st.integers(0, 255))
    kind = draw(st.sampled_from(["soft", "hard", "equal", "raw", "odd"]))
    logits = rng.normal(size=(labels, height, width)) * draw(st.sampled_from([0.1, 1, 30, 1000]))
    probs = np.exp(logits - logits.max(axis=0))
    probs /= probs.sum(axis=0)
    if kind == "hard":
        probs = (logits == logits.max(axis=0)).astype(float)
    elif kind == "equal":
        probs = np.full_like(probs, 1 / labels)
    elif kind == "raw":
        probs = logits
    elif kind == "odd":
        probs[tuple(draw(st.integers(0, side - 1)) for side in probs.shape)] = draw(FLOATS)
    return image, probs.astype(draw(st.sampled_from([np.float32, np.float64, np.float16])))


@settings(max_examples=100)
@given(crf_inputs(), st.sampled_from([0, 1, 5]))
def test_the_crf_gives_probabilities_or_one_line(inputs: tuple[np.ndarray, np.ndarray], iterations: int) -> None:
    image, probs = inputs
    given_image, given_probs = image.copy(), probs.copy()
    params = dataclasses.replace(LOSS_CRF, iterations=iterations)

    def infer() -> None:
        marginals = dense_crf(image, probs, params)
        assert marginals.shape == probs.shape and marginals.dtype == np.float32
        assert np.isfinite(marginals).all() and marginals.min() >= 0
        assert np.allclose(marginals.sum(axis=0), 1, atol=1e-4)

    if refused(infer, DataError):
        sums = probs.astype(np.float64).sum(axis=0)
        with np.errstate(invalid="ignore"):
            assert not np.isfinite(probs).all() or probs.min() < 0 or np.abs(sums - 1).max() > 9e-3
    assert np.array_equal(image, given_image) and np.array_equal(probs, given_probs, equal_nan=True)


@settings(max_examples=60)
@given(st.floats(), st.floats() | st.none(), st.floats(), st.integers(-2, 3))
def test_any_kernel_is_taken_or_refused_in_one_line(sxy: float, srgb: float | None, weight: float, count: int) -> None:
    image, probs = np.zeros((4, 5, 3), np.uint8), np.full((2, 4, 5), 0.5, np.float32)

    def infer() -> None:
        params = CRFParams(kernels=(Kernel(sxy=sxy, srgb=srgb, weight=weight),), iterations=count)
        assert np.isfinite(dense_crf(image, probs, params)).all()

    refused(infer)


SAMPLE = Sample("photo", np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3), (1, 3))
CLASSES = ClassSet.from_foreground(["cat", "dog", "cow"])

maps = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.uint8, np.bool_, np.int64, np.dtype("U3"), np.complex64]),
    st.sampled_from([(4, 6), (4, 6), (4, 6), (6, 4), (), (0,), (1, 4, 6)]),
)
cam_keys = st.sampled_from([0, 1, 2, 3, "cat", "cow", "0", "horse", -1, 10**30, 1.5, None, True, ""])


@given(st.dictionaries(cam_keys, maps, max_size=4), st.booleans(), st.sampled_from([0, 1]))
def test_imported_maps_are_seeds_or_one_line(
    tmp_path: Path, content: dict[Any, Any], listed: bool, first_class: int
) -> None:
    if listed:
        content = {"keys": list(content), "cams": list(content.values())}
    np.save(tmp_path / "photo.npy", content)  # type: ignore[arg-type]
    importer = ImportedCAMs(tmp_path, CLASSES, first_class=first_class)

    def read() -> None:
        cam = importer.cam(SAMPLE)
        assert cam.classes == SAMPLE.labels and cam.maps.shape == (2, 4, 6) and cam.maps.dtype == np.float32
        assert cam.maps.min() >= 0 and cam.maps.max() <= 1
        made = seed_masks(SAMPLE, cam, SeedSettings())
        assert set(np.unique(made.seed)) <= {0, *SAMPLE.labels, 255} and set(np.unique(made.dense)) <= {
            0,
            *SAMPLE.labels,
        }

    refused(read, DataError)


@given(hnp.arrays(np.float32, (4, 6), elements=st.floats(0, 1, width=32)), st.booleans())
def test_imported_maps_come_back_as_they_were(tmp_path: Path, found: np.ndarray, packed: bool) -> None:
    (tmp_path / "photo.npy").unlink(missing_ok=True)
    (tmp_path / "photo.npz").unlink(missing_ok=True)
    if packed:
        np.savez(tmp_path / "photo.npz", cat=found, cow=found)
    else:
        np.save(tmp_path / "photo.npy", {0: found, 2: found})  # type: ignore[arg-type]
    cam = ImportedCAMs(tmp_path, CLASSES).cam(SAMPLE)
    assert all(np.array_equal(each, found) for each in cam.maps)


@given(
    hnp.arrays(
        np.uint8, st.sampled_from([(4, 6), (4, 6), (6, 4), (1, 1)]), elements=st.sampled_from([0, 1, 2, 3, 4, 255])
    )
)
def test_imported_masks_are_seeds_or_one_line(tmp_path: Path, mask: np.ndarray) -> None:
    write_mask(tmp_path / "photo.png", mask, voc_palette())
    importer = ImportedMasks(tmp_path, CLASSES)

    def read() -> None:
        made = importer.masks(SAMPLE)
        assert set(np.unique(made.seed)) <= {0, *SAMPLE.labels, 255}
        kept = np.isin(mask, [0, *SAMPLE.labels])
        assert np.array_equal(made.seed[kept], mask[kept])

    assert refused(read, DataError) == (mask.shape != (4, 6) or bool((mask == 4).any()))


def test_the_keys_that_are_tried_are_those_of_the_configuration() -> None:
    assert ("data", "on_error") in KEYS and ("seeds", "masks", "crf") in KEYS and len(KEYS) > 80
    assert {key[0] for key in KEYS} == {entry.name for entry in dataclasses.fields(RunConfig)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_of_a_configuration_is_infinite(value: float) -> None:
    with pytest.raises(ConfigError, match="finite"):
        load_config("demo", [f"train.learning_rate=.{value}"])


def test_spaces_in_an_override_stay(tmp_path: Path) -> None:
    config = load_config("folder", ["data.root='two  spaces'"])
    assert config.data.root == "two  spaces"
