"""Files of annotation tools that lie: none reserves memory, each is drawn, passed over, or refused in one line."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from harm import is_one_clear_line
from PIL import Image

from weakclip.annotations import read_cvat
from weakclip.datasets.images import read_mask, write_mask
from weakclip.errors import DataError
from weakclip.pipeline.context import open_run
from weakclip.store.untrusted_text import is_plain
from weakclip.tools.annotate import import_masks

pytestmark = pytest.mark.timeout(60)

HEIGHT, WIDTH = 15, 21
HUGE, BEYOND, DEEP = 10**6, 10**40, "[" * 200_000
TRIANGLE = [0, 0, 9, 0, 9, 9]
CONTROLS = "two\nlines\x1b[2J" + "y" * 5000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one photo of 21 x 15 pixels, with a pseudo mask."""
    root, run = tmp_path / "photos", tmp_path / "run"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "one.png")
    (root / "labels.csv").write_text("image,labels\none.png,cat\n")
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"dataset": "folder", "root": str(root)}}))
    palette = open_run(run).train.class_set.palette
    write_mask(run / "3_pseudo_masks/masks/one.png", np.zeros((HEIGHT, WIDTH), np.uint8), palette)
    return run


@pytest.fixture(autouse=True)
def four_gigabytes_more() -> Iterator[None]:
    """No file here may take more memory than that."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def brush_of(count: int) -> list[int]:
    """A code of Label Studio's brush that says, in a few bytes, that so many values are inside."""
    bits, left = f"{count:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16)), count
    while left:
        part = min(left, 2**16)
        bits, left = bits + f"111{part - 1:016b}{255:08b}", left - part
    return list(int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big"))


def task(shape: dict[str, Any] | None = None, value: dict[str, Any] | None = None, **changes: Any) -> str:
    """Label Studio's export of one photo with one region."""
    corners = {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["cat"]}
    region = {"type": "polygonlabels", "original_width": WIDTH, "original_height": HEIGHT, "value": value or corners}
    found = {"data": {"image": "one.png"}, "annotations": [{"result": [region | (shape or {})]}]}
    return json.dumps([found | changes])


def brush(code: Any, **shape: Any) -> str:
    return task({"type": "brushlabels", **shape}, {"format": "rle", "rle": code, "brushlabels": ["cat"]})


def corner(x: float) -> str:
    return task(value={"points": [[x, 0], [50, 0], [50, 50]], "polygonlabels": ["cat"]})


LABEL_STUDIO = {
    "a name that is a number": task(data={"image": "x", "file_name": 7}),
    "a name of lines": task({"value": 3}, data={"image": CONTROLS}),
    "an address that is a number": task(data={"image": 7}),
    "brush of a terabyte of zeros": brush(10**12),
    "brush beyond all numbers": brush(BEYOND),
    "brush of letters": brush("abc"),
    "brush of a gigabyte": brush(brush_of(2**30), original_width=2**14, original_height=2**14),
    "a huge image": task({"original_width": HUGE, "original_height": HUGE}),
    "an image beyond all numbers": task({"original_width": BEYOND}),
    "less than nothing": task({"original_width": -WIDTH, "original_height": -HEIGHT}),
    "a size of lines": task({"original_width": CONTROLS}),
    "a size in a list": task({"original_width": [WIDTH]}),
    "a label in a list": task(value={"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": [["cat"]]}),
    "a label of lines": task(value={"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": [CONTROLS]}),
    "no corners": task(value={"points": [], "polygonlabels": ["cat"]}),
    "a corner that is no number": corner(float("nan")),
    "a corner without end": corner(float("inf")),
    "a corner far away": corner(1e308),
    "corners of three": task(value={"points": [[1, 2, 3]], "polygonlabels": ["cat"]}),
    "a kind of lines": task({"type": f"{CONTROLS}labels"}),
    "a dictionary of annotations": task(annotations={"a": 1}),
    "a number of annotations": task(annotations=7),
    "a number of regions": task(annotations=[{"result": 7}]),
    "a number as a task": "[7]",
    "nested": DEEP,
    "nested in a task": '[{"data": ' + DEEP,
}


def coco(area: Any = None, *, image: dict[str, Any] | None = None, name: Any = "cat", **mark: Any) -> str:
    photo = {"id": 1, "file_name": "one.png", "height": HEIGHT, "width": WIDTH} | (image or {})
    region = {"image_id": 1, "category_id": 1, "segmentation": [TRIANGLE] if area is None else area} | mark
    return json.dumps({"images": [photo], "categories": [{"id": 1, "name": name}], "annotations": [region]})


def runs(counts: Any, size: list[int] | None = None) -> dict[str, Any]:
    return {"size": size or [HEIGHT, WIDTH], "counts": counts}


COCO = {
    "a name that is a number": coco(image={"file_name": 7}),
    "a name in a list": coco(image={"file_name": ["one.png"]}),
    "a name of lines": coco([[0, 0, 1]], image={"file_name": CONTROLS}),
    "an image in a list": coco(image={"id": [1]}),
    "a huge image": coco(image={"height": HUGE, "width": HUGE}),
    "huge runs": coco(runs([HUGE**2], [HUGE, HUGE]), image={"height": HUGE, "width": HUGE}),
    "less than nothing": coco(runs([1], [-1, -1]), image={"height": -1, "width": -1}),
    "a size as text": coco(image={"height": "15", "width": "21"}),
    "a label in a list": coco(name=["cat"]),
    "a label of lines": coco(name=CONTROLS),
    "a category in a list": coco(category_id=[1]),
    "half a corner": coco([[0, 0, 1]]),
    "no corners": coco([[]]),
    "corners that are no numbers": coco([[float("nan"), 0, 1, 1, 2, float("inf")]]),
    "corners far away": coco([[1e308, -1e308, 1, 1, -1e308, 1e308]]),
    "a corner beyond all numbers": coco().replace("[[0,", f"[[{'9' * 400},"),
    "text for an area": coco("abc"),
    "text for runs": coco(runs("~~~\u20ac")),
    "runs beyond all numbers": coco(runs([BEYOND, 1])),
    "runs that go back": coco(runs([-1, HEIGHT * WIDTH + 1])),
    "numbers in all lists": json.dumps({"images": [3], "categories": [4], "annotations": [5]}),
    "nested": '{"images": ' + DEEP,
}


def cvat(shape: str = "", name: str = "one.png", size: tuple[int, int] = (WIDTH, HEIGHT), head: str = "") -> str:
    image = f'<image id="0" name="{name}" width="{size[0]}" height="{size[1]}">{shape}</image>'
    return f"{head}<annotations>{image}</annotations>"


def polygon(points: str = "0,0;9,0;9,9", more: str = "") -> str:
    return f'<polygon label="cat" points="{points}" {more}/>'


BOMB = "<!DOCTYPE a [<!ENTITY a0 'dog'>" + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 30))
CVAT = {
    "a billion laughs": cvat(name="&a29;", head=f"{BOMB}]>"),
    "a document type": cvat(polygon(), head="<!DOCTYPE annotations>"),
    "a file of elsewhere": cvat("&x;", head='<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
    **{
        f"written in {encoding}": cvat(head=f'<?xml version="1.0" encoding="{encoding}"?>')
        for encoding in ("shift_jis", "nonsense", "idna", "rot13", "hex", "utf-7")
    },
    "a huge image": cvat(polygon(), size=(HUGE, HUGE)),
    "a huge mask": cvat(
        f'<mask label="cat" rle="{HUGE**2}" left="0" top="0" width="{HUGE}" height="{HUGE}"/>', size=(HUGE, HUGE)
    ),
    "an image beyond all numbers": cvat(polygon(), size=(BEYOND, HEIGHT)),
    "corners that are no numbers": cvat(polygon("nan,0;inf,0;5,5")),
    "half a corner": cvat(polygon("1")),
    "corners of two kinds": cvat(polygon("1,2;3")),
    "runs that go back": cvat('<mask label="cat" rle="-1,2" left="0" top="0" width="1" height="1"/>'),
    "a height of words": cvat(polygon(more='z_order="x"')),
    "a height of thousands of digits": cvat(polygon(more=f'z_order="{"9" * 5000}"')),
    "nested": f"<annotations>{'<a>' * 200_000}{'</a>' * 200_000}</annotations>",
    "a name of lines": cvat("<mask/>", name="a&#10;b" + "y" * 5000),
    "a label of lines": cvat(f'<polygon label="a&#10;{"y" * 5000}" points="0,0;9,0;9,9"/>'),
    "an endless root": f"<{'a' * 5000}/>",
    "nothing": "<",
}
FILES = {
    f"{kind}: {name}": (f"file.{ending}", text)
    for kind, ending, texts in (("Label Studio", "json", LABEL_STUDIO), ("COCO", "json", COCO), ("CVAT", "xml", CVAT))
    for name, text in texts.items()
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "text"), FILES.values(), ids=FILES)
def test_a_hostile_annotation_file_is_refused_in_one_line(run: Path, tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        import_masks(path, run, tmp_path / "out")
    assert is_one_clear_line(caught.value, path) and is_plain(str(caught.value))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_annotations_of_cvat_define_no_entities(tmp_path: Path, encoding: str) -> None:
    declared = f'<?xml version="1.0" encoding="{encoding}"?><!--{"x" * 10_000}--><!DOCTYPE annotations>'
    (tmp_path / "a.xml").write_bytes(cvat(polygon(), head=declared).encode(encoding))
    with pytest.raises(DataError, match=r"a\.xml: cannot be read as XML \(it has a document type declaration; refused"):
        next(read_cvat(tmp_path / "a.xml"))


@pytest.mark.parametrize(("name", "text"), [("a.json", task()), ("a.json", coco()), ("a.xml", cvat(polygon()))])
def test_the_files_above_are_read_but_for_what_is_wrong_with_them(
    run: Path, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    assert import_masks(tmp_path / name, run, tmp_path / "out").drawn == 1
    assert read_mask(tmp_path / "out/one.png").any()


@pytest.mark.parametrize("address", ["", "/", "..", "a/" * 100_000 + "x", "../../one.png", "\0"])
def test_an_odd_address_is_another_image_or_the_one_that_its_end_names(run: Path, tmp_path: Path, address: str) -> None:
    path = tmp_path / "a.json"
    tasks = json.loads(task(data={"image": address or "x", "file_name": address})) + json.loads(task())
    path.write_text(json.dumps(tasks if address != "../../one.png" else tasks[:1]))
    assert import_masks(path, run, tmp_path / "out").drawn == 1
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["import.json", "one.png"]


def test_images_of_others_are_not_drawn(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    fill: Callable[..., Any] = np.zeros
    monkeypatch.setattr(
        "weakclip.annotations.label_studio.fill_polygon", lambda _, size: drawn.append(size) or fill(size, bool)
    )
    huge = json.loads(task({"original_width": HUGE, "original_height": HUGE}, data={"image": "other.png"}))
    (tmp_path / "a.json").write_text(json.dumps(huge + json.loads(task())))
    assert import_masks(tmp_path / "a.json", run, tmp_path / "out").foreign == ("other.png",)
    assert drawn == [(HEIGHT, WIDTH)]


def test_a_linked_pseudo_mask_is_not_copied(run: Path, tmp_path: Path) -> None:
    """What the file does not name is taken from the run, which may come from somebody else."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "photos/images/two.png")
    (tmp_path / "photos/labels.csv").write_text("image,labels\none.png,cat\ntwo.png,cat\n")
    (tmp_path / "secret").write_text("private")
    (run / "3_pseudo_masks/masks/two.png").symlink_to(tmp_path / "secret")
    (tmp_path / "a.json").write_text(task())
    with pytest.raises(DataError, match="a link that leads out of"):
        import_masks(tmp_path / "a.json", run, tmp_path / "out")
    assert not (tmp_path / "out/two.png").exists()
