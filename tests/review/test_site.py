"""Laws of the page's addresses: images by index alone, nothing changes but by our own page, and no answer without its
headers."""

from __future__ import annotations

import io
import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from review_case import HOSTILE, HOSTILE_CLASS, LABELS, NAMES, write_figures, write_manifest

from weakclip.errors import DataError, RunError
from weakclip.inference.mask_statistics import STATISTICS
from weakclip.review import guard
from weakclip.review.folder import FILTERS, ReviewFolder
from weakclip.review.pictures import Picture, PictureCache
from weakclip.review.server import build_site
from weakclip.store.marks import MARKS, read_marks

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
from starlette.testclient import TestClient  # after the skip: it comes with the extra

TOKEN = "the token"
HOST = "127.0.0.1:8765"
OWN = {"Origin": f"http://{HOST}", "X-Review-Token": TOKEN}
Client = Callable[..., TestClient]


@pytest.fixture
def client(review_run: Path) -> TestClient:
    return TestClient(build_site(ReviewFolder(review_run), token=TOKEN), base_url=f"http://{HOST}")


def post(client: TestClient, **body: Any) -> Any:
    return client.post("/api/marks", json=body, headers=OWN)


def pixels(answer: Any) -> np.ndarray:
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.array(image.convert("RGBA"))


def test_page_carries_the_token_and_escapes_the_name(review_run: Path) -> None:
    renamed = review_run.rename(review_run.parent / HOSTILE)
    page = TestClient(build_site(ReviewFolder(renamed), token=TOKEN), base_url=f"http://{HOST}").get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert f'content="{TOKEN}"' in page.text
    assert "&lt;script&gt;window" in page.text
    assert page.text.count("<script") == 1
    assert " style=" not in page.text and " on" not in page.text.split("<body>")[0]


@pytest.mark.parametrize(("path", "kind"), [("/review.js", "text/javascript"), ("/review.css", "text/css")])
def test_own_files(client: TestClient, path: str, kind: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
    assert "http" not in answer.text.replace("http-", "")


def test_run_is_described(client: TestClient) -> None:
    value = client.get("/api/run").json()
    assert value["layers"] == ["image", "seed", "pseudo mask", "prediction", "truth"]
    assert {each["name"] for each in value["classes"]} == {"background", *LABELS}
    assert value["counts"] == {**dict.fromkeys(FILTERS, 0), "all": 4, "unmarked": 4}


def test_images_are_listed_and_filtered(client: TestClient) -> None:
    def chosen(**query: str) -> list[str]:
        indices = client.get("/api/list", params=query).json()["indices"]
        items = client.get("/api/items", params={"i": ",".join(map(str, indices))}).json()["items"] if indices else []
        return sorted(item["name"] for item in items)

    assert chosen() == sorted(NAMES)
    assert chosen(**{"class": "cat"}) == ["cats/one", "cats/two"]
    assert chosen(**{"class": HOSTILE_CLASS}) == [HOSTILE]
    assert chosen(name="O") == sorted(name for name in NAMES if "o" in name)
    assert chosen(mark="unmarked", **{"class": "dog"}) == ["dogs/three"]
    assert chosen(mark="bad") == []


def test_the_most_doubtful_come_first_where_doubts_are_known(review_run: Path) -> None:
    def listed(**query: str) -> list[int]:
        client = TestClient(build_site(ReviewFolder(review_run), token=TOKEN), base_url=f"http://{HOST}")
        assert client.get("/api/run").json()["doubts"] == known
        indices: list[int] = client.get("/api/list", params=query).json()["indices"]
        return indices

    known = False
    assert listed() == listed(order="split") == [0, 1, 2, 3]
    write_figures(review_run, {NAMES[0]: 0.9, NAMES[1]: 0.2, NAMES[3]: 0.5})  # nothing is known of the third
    known = True
    assert listed() == listed(order="doubt") == [1, 3, 0, 2]
    assert listed(order="split") == [0, 1, 2, 3]
    (review_run / "3_pseudo_masks" / STATISTICS).write_text('{"name": "a", "unheard_of": 1}\n')
    known = False
    assert listed() == [0, 1, 2, 3]


@pytest.mark.parametrize("query", ["mark=awful", "class=cow", "class=background", "class=1", "order=name"])
def test_unknown_filter_is_400(client: TestClient, query: str) -> None:
    assert client.get(f"/api/list?{query}").status_code == 400


@pytest.mark.parametrize(("query", "status"), [("", 400), ("a", 400), ("-1", 400), ("²", 400), ("4", 404), ("1,", 400)])
def test_items_take_numbers_of_images(client: TestClient, query: str, status: int) -> None:
    assert client.get("/api/items", params={"i": query}).status_code == status


def test_pictures(client: TestClient) -> None:
    image = client.get("/image/1")
    assert image.headers["content-type"] == "image/jpeg" and pixels(image).shape == (16, 24, 4)
    assert client.get("/thumb/1").headers["content-type"] == "image/jpeg"
    layer = pixels(client.get("/layer/1/pseudo mask"))
    assert (layer[:, :12, 3] == 0).all() and (layer[:, 12:, 3] == 255).all()
    seed = pixels(client.get("/layer/1/seed"))
    assert (seed[:, 12:, :3] == 255).all() and (seed[:, 12:, 3] < 255).all() and (seed[:, 12:, 3] > 0).all()
    assert client.get("/layer/1/prediction").status_code == client.get("/layer/1/truth").status_code == 200


def test_outlines_are_in_the_colour_of_the_class_with_a_dark_line_outside(client: TestClient) -> None:
    lines = pixels(client.get("/lines/1/pseudo mask"))
    color = client.get("/api/run").json()["classes"][1]["color"]
    assert "#{:02x}{:02x}{:02x}".format(*lines[5, 12, :3]) == color and lines[5, 12, 3] == 255
    assert (lines[:, 11, :3] < 30).all() and (lines[:, 11, 3] > 150).all()
    assert not lines[:, :11, 3].any() and not lines[:, 13:, 3].any()
    assert client.get("/lines/0/truth").status_code == client.get("/lines/1/masks").status_code == 404


def test_the_photo_is_shown_at_its_own_size_where_that_is_asked_for(review_run: Path) -> None:
    path = review_run.parent / "mine/images/cats/one.png"
    Image.new("RGB", (2000, 1333)).save(path)
    folder = ReviewFolder(review_run)
    client = TestClient(build_site(folder, token=TOKEN), base_url=f"http://{HOST}")
    index = folder.dataset.index_of("cats/one")
    sizes = [pixels(client.get(f"/image/{index}{query}")).shape[:2] for query in ("", "?size=own")]
    assert sizes == [(853, 1280), (1333, 2000)]
    assert pixels(client.get(f"/layer/{index}/seed?size=own")).shape[:2] == (16, 24)


def test_layer_that_is_not_there_is_404_and_says_so(client: TestClient) -> None:
    answer = client.get("/layer/0/truth")
    assert answer.status_code == 404 and "no truth" in answer.json()["detail"]


def test_picture_is_sent_again_only_when_it_changed(client: TestClient, review_run: Path) -> None:
    first = client.get("/layer/0/seed")
    again = client.get("/layer/0/seed", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content
    name = client.get("/api/items?i=0").json()["items"][0]["name"]
    path = review_run / "1_seeds/masks" / f"{name}.png"
    path.write_bytes((review_run / "3_pseudo_masks/masks" / f"{name}.png").read_bytes())
    changed = client.get("/layer/0/seed", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200 and changed.content != first.content


def test_cache_keeps_to_its_bound() -> None:
    cache = PictureCache(limit=10)
    asked: list[int] = []

    def get(number: int) -> None:
        cache.get((number,), lambda: asked.append(number) or Picture(b"1234", "image/png"))  # type: ignore[func-returns-value]

    for number in (1, 2, 1, 3, 1, 2):
        get(number)
    assert asked == [1, 2, 3, 2]  # 2 had to go when 3 came, for 1 was asked for later
    assert cache.size <= 10


@pytest.mark.parametrize(
    "path",
    [
        *("/layer/0/../../config.yaml", "/layer/0/%2e%2e%2f%2e%2e%2fconfig.yaml", "/layer/0/..%2fconfig.yaml"),
        *(
            "/image/../config.yaml",
            "/image/%2fetc%2fpasswd",
            "/image//etc/passwd",
            "/thumb/0%00",
            "/image/-1",
            "/image/4",
        ),
        *("/config.yaml", "/marks.jsonl", "/manifest.json", "/page/review.html.j2", "/review.html.j2", "/1_seeds/"),
        *("/../server.py", "/%2e%2e/server.py", "/docs", "/redoc", "/openapi.json", "/image/", "/layer/0/masks"),
        *("/image/99999999999999999999999", "/layer/0/seed/", "/layer/0/seed%00", "/static/"),
    ],
)
def test_nothing_else_can_be_had(client: TestClient, path: str) -> None:
    answer = client.get(f"http://{HOST}{path}", follow_redirects=False)
    assert answer.status_code in (307, 404), answer.text
    if answer.status_code == 307:
        assert client.get(f"http://{HOST}{path}").headers["content-type"].startswith("image/")  # a slash too many
    else:
        assert "dataset" not in answer.text and "root:" not in answer.text


def test_link_out_of_the_run_folder_is_not_followed(client: TestClient, review_run: Path) -> None:
    name = client.get("/api/items?i=0").json()["items"][0]["name"]
    path = review_run / "3_pseudo_masks/masks" / f"{name}.png"
    outside = review_run.parent / "outside.png"
    path.rename(outside)
    path.symlink_to(outside)
    assert client.get("/layer/0/pseudo mask").status_code == 404
    assert client.get("/thumb/0").status_code == 200  # with the seed
    path.unlink()
    path.symlink_to(review_run / "5_evaluate/train_predictions/masks" / f"{name}.png")
    assert client.get("/layer/0/pseudo mask").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.", "", "a b"]
)
def test_foreign_host_is_refused(client: TestClient, host: str) -> None:
    for answer in (client.get("/", headers={"Host": host}), client.get("/api/run", headers={"Host": host})):
        assert answer.status_code == 403 and TOKEN not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:9999", "localhost:8765", "LOCALHOST", "[::1]:8765"])
def test_this_machine_is_let_in_through_a_forwarded_port_too(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200
    body = {"image": 0, "mark": "good"}
    own = {**OWN, "Host": host, "Origin": f"http://{host}"}
    assert client.post("/api/marks", json=body, headers=own).status_code == 200


def test_open_host_takes_addresses_and_own_names_alone(review_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_own_names", lambda: {"lab-7"})
    site = build_site(ReviewFolder(review_run), token=TOKEN, host="0.0.0.0")
    client = TestClient(site, base_url="http://10.1.2.3:8765")
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"Host": "lab-7:8765"}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example:8765"}).status_code == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "https://127.0.0.1:8765"},
        {"Origin": "http://127.0.0.1:8766"},
        {"Origin": "http://localhost:8765"},
        {"Origin": "null"},
        {"Origin": None},
        {"X-Review-Token": "guess"},
        {"X-Review-Token": ""},
        {"X-Review-Token": None},
    ],
)
def test_foreign_page_changes_nothing(client: TestClient, review_run: Path, changes: dict[str, str | None]) -> None:
    headers = {name: value for name, value in {**OWN, **changes}.items() if value is not None}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = client.request(method, "/api/marks", json={"image": 0, "mark": "good"}, headers=headers)
        assert answer.status_code == 403
    assert not (review_run / MARKS).exists()


@pytest.mark.parametrize("path", ["/", "/api/run", "/image/0", "/review.js", "/nothing", "/image/4", "/api/marks"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_every_answer_has_the_headers(client: TestClient, path: str, method: str) -> None:
    answer = client.request(method, path)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] in ("no-store", "private, no-cache")
    assert "access-control-allow-origin" not in answer.headers


def test_other_methods(client: TestClient) -> None:
    assert client.head("/").status_code == client.head("/image/0").status_code == 200
    assert client.get("/api/marks").status_code == 405
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, "/image/0", headers=OWN).status_code == 405


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b'{"image": 0}', 400),
        (b'{"image": "0", "mark": "good"}', 400),
        (b'{"image": 0.5, "mark": "good"}', 400),
        (b'{"image": true, "mark": "good"}', 400),
        (b'{"image": 0, "mark": "awful"}', 400),
        (b'{"image": 0, "mark": "good", "path": "../x"}', 400),
        (b'{"image": 0, "mark": "relabel"}', 400),
        (b'{"image": 0, "mark": "relabel", "labels": null}', 400),
        (b'{"image": 0, "mark": "relabel", "labels": ["cow"]}', 400),
        (b'{"image": 0, "mark": "relabel", "labels": ["background"]}', 400),
        (b'{"image": 0, "mark": "relabel", "labels": "cat"}', 400),
        (b'{"image": 4, "mark": "good"}', 404),
        (b'{"image": -1, "mark": "good"}', 404),
        (b'{"image": 0, "mark": "good", "after": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
def test_bad_mark_is_refused_in_words(client: TestClient, review_run: Path, content: bytes, status: int) -> None:
    answer = client.post("/api/marks", content=content, headers={**OWN, "Content-Type": "application/json"})
    assert answer.status_code == status and answer.json()["detail"]
    assert not (review_run / MARKS).exists()


def test_mark_comes_as_json_alone(client: TestClient) -> None:
    content = json.dumps({"image": 0, "mark": "good"})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert client.post("/api/marks", content=content, headers={**OWN, "Content-Type": kind}).status_code == 415


def test_marks_are_stored_and_counted(client: TestClient, review_run: Path) -> None:
    assert post(client, image=0, mark="good").json()["item"]["mark"] == "good"
    assert post(client, image=1, mark="bad").json()["counts"]["bad"] == 1
    answer = post(client, image=2, mark="relabel", labels=["dog", "cat", "cat"], truth_seen=True).json()
    assert answer["counts"] == {
        **dict.fromkeys(FILTERS, 0),
        "all": 4,
        "unmarked": 1,
        "good": 1,
        "bad": 1,
        "relabelled": 1,
    }
    assert len(answer["item"]["labels"]) == 2
    assert client.get("/api/list?mark=relabelled").json()["indices"] == [2]
    assert 2 in client.get("/api/list?class=cat").json()["indices"]
    marks, _ = read_marks(review_run / MARKS)
    mark = marks[answer["item"]["name"]]
    assert (mark.mark, set(mark.labels or ()), mark.masks, mark.truth_seen) == (
        "relabel",
        {"cat", "dog"},
        "first",
        True,
    )


def test_judging_a_relabelled_image_keeps_its_labels_and_taking_back_does_not(client: TestClient) -> None:
    post(client, image=0, mark="relabel", labels=[])
    item = post(client, image=0, mark="bad").json()["item"]
    assert (item["mark"], item["corrected"], item["labels"]) == ("bad", [], [])
    item = post(client, image=0, mark=None, labels=None).json()["item"]
    assert (item["mark"], item["corrected"], item["labels"]) == (None, None, item["given"])


def test_two_windows_lose_no_marks_of_each_other(client: TestClient) -> None:
    first = post(client, image=0, mark="bad").json()["item"]
    post(client, image=1, mark="good")
    second = post(client, image=0, mark="good").json()["item"]
    assert post(client, image=0, mark=None, labels=None, after=first["time"]).status_code == 409
    assert post(client, image=0, mark="bad", labels=None, after=second["time"]).status_code == 200
    assert client.get("/api/items?i=1").json()["items"][0]["mark"] == "good"


def test_mark_on_an_earlier_mask_is_to_be_looked_at_again(client: TestClient, review_run: Path) -> None:
    post(client, image=0, mark="bad")
    write_manifest(review_run, "second")
    value = client.get("/api/items?i=0").json()
    assert value["items"][0]["again"] and value["counts"]["again"] == 1
    assert client.get("/api/list?mark=again").json()["indices"] == [0]
    assert not post(client, image=0, mark="good").json()["item"]["again"]


def test_marks_of_another_run_are_shown_and_overruled(review_run: Path) -> None:
    other = review_run.parent / "other.jsonl"
    other.write_text("".join(json.dumps({"image": name, "mark": "bad"}) + "\n" for name in NAMES[:2]))
    config = yaml.safe_load((review_run / "config.yaml").read_text())
    config["data"]["marks"] = str(other)
    (review_run / "config.yaml").write_text(yaml.safe_dump(config))
    folder = ReviewFolder(review_run)
    client = TestClient(build_site(folder, token=TOKEN), base_url=f"http://{HOST}")
    assert client.get("/api/run").json()["counts"]["bad"] == 2
    index = folder.dataset.index_of(NAMES[0])
    assert post(client, image=index, mark="good").json()["counts"]["bad"] == 1
    assert other.read_text().count("\n") == 2


def test_full_disk_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("weakclip.store.marks._append", full)
    answer = post(client, image=0, mark="good")
    assert answer.status_code == 507 and "No space left" in answer.json()["detail"]


def test_broken_image_is_one_clear_line(client: TestClient, review_run: Path) -> None:
    folder = ReviewFolder(review_run)
    folder.dataset.image_path(0).write_bytes(b"no image")  # type: ignore[attr-defined]
    for path in ("/image/0", "/thumb/0"):
        answer = client.get(path)
        assert answer.status_code == 404 and "not an image" in answer.json()["detail"]


def test_hostile_names_are_quoted_in_json(client: TestClient) -> None:
    answer = client.get("/api/items?i=0,1,2,3")
    assert answer.headers["content-type"] == "application/json"
    assert HOSTILE in {item["name"] for item in answer.json()["items"]}
    assert client.get("/api/list", params={"class": urllib.parse.quote(HOSTILE_CLASS)}).status_code == 400


def test_folder_that_cannot_be_reviewed(review_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        ReviewFolder(tmp_path / "nothing")
    (review_run / MARKS).write_text('{"image": "cats/one", "mark": "relabel", "labels": ["cow"]}\n')
    with pytest.raises(DataError, match=r"marks.jsonl: image 'cats/one': unknown class 'cow'"):
        ReviewFolder(review_run)
    for mask in [*review_run.rglob("*.png")]:
        mask.unlink()
    with pytest.raises(RunError, match="no masks are made yet; `weakclip run`"):
        ReviewFolder(review_run)
