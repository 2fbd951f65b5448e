"""The page in a real browser: images found, compared, marked and taken back, by mouse and by keys, wide and narrow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from review_case import HOSTILE, HOSTILE_CLASS, NAMES, served, write_figures, write_manifest

from weakclip.store.marks import MARKS, read_marks

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """`open_page("#…", width=…, address=…)` is a page with its images; afterwards none of them has met an error."""
    contexts, problems = [], []

    def opened(fragment: str = "", *, width: int = 1200, address: str = address) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(address + fragment)
        page.wait_for_selector(".cell, #empty:not([hidden])", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    known = ("404", "409")  # of the truth that one image lacks, and of an undo that came too late
    assert not [problem for problem in problems if not any(f"status of {code}" in problem for code in known)]


def names(page: Any) -> list[str]:
    return page.locator(".cell .title").all_text_contents()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def true_in(page: Any, expression: str) -> None:
    """Wait for it; playwright's own waiting evaluates text in the page, which its content policy forbids."""
    until(lambda: bool(page.evaluate(expression)))


def stored(run: Path) -> dict[str, str | None]:
    return {name: mark.mark for name, mark in read_marks(run / MARKS)[0].items()} if (run / MARKS).exists() else {}


def focus(page: Any, name: str) -> None:
    page.locator(".cell", has_text=name).focus()


def test_images_are_shown_and_filtered(open_page: Open, review_run: Path) -> None:
    page = open_page()
    assert names(page) == list(NAMES)
    true_in(page, "[...document.querySelectorAll('.cell img')].every((image) => image.naturalWidth === 24)")
    page.select_option("#by-class", "cat")
    until(lambda: names(page) == ["cats/one", "cats/two"])
    page.fill("#by-name", "TWO")
    until(lambda: names(page) == ["cats/two"])
    page.select_option("#by-mark", "bad")
    page.wait_for_selector("#empty:not([hidden])")
    page.reload()
    page.wait_for_selector("#empty:not([hidden])")
    assert page.input_value("#by-class") == "cat" and page.input_value("#by-name") == "TWO"


def test_doubtful_masks_come_first_or_all_in_order(open_page: Open, review_run: Path) -> None:
    assert open_page().locator("#order-choice").is_hidden()  # where no doubts are known, there is nothing to choose
    write_figures(review_run, {name: 0.9 - number / 10 for number, name in enumerate(NAMES)})
    with served(review_run) as address:
        page = open_page(address=address)
        assert names(page) == [*reversed(NAMES)]
        page.select_option("#order", "split")
        until(lambda: names(page) == list(NAMES))
        page.reload()
        page.wait_for_selector(".cell")
        assert names(page) == list(NAMES) and page.input_value("#order") == "split"


def test_hostile_names_are_text(open_page: Open) -> None:
    page = open_page()
    focus(page, HOSTILE)
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer:not([hidden])")
    assert page.inner_text("#name") == HOSTILE
    assert page.locator("#labels .chip").all_text_contents() == [HOSTILE_CLASS]
    page.keyboard.press("r")
    assert HOSTILE_CLASS in page.locator("#class-list label").all_text_contents()
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.querySelectorAll('script').length") == 1


def clips(page: Any) -> list[str]:
    return [page.evaluate(f"document.getElementById('{side}-side').style.clipPath") for side in ("left", "right")]


def test_divider_moves_by_mouse_and_by_keys(open_page: Open) -> None:
    page = open_page("#image=1")
    page.wait_for_selector("#viewer:not([hidden])")
    true_in(page, "document.getElementById('photo').complete")
    true_in(page, "getComputedStyle(document.getElementById('compare')).getPropertyValue('--ratio') == 1.5")
    box = page.locator("#compare").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=4)
    assert page.input_value("#slider") == "25"
    assert clips(page) == ["inset(0px 75% 0px 0px)", "inset(0px 0px 0px 25%)"]
    page.mouse.move(box["x"] - 200, middle)
    assert page.input_value("#slider") == "0"
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] * 0.9, middle)
    assert page.input_value("#slider") == "0"
    page.keyboard.press(".")
    assert page.input_value("#slider") == "5"
    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")
    assert page.input_value("#slider") == "6"
    page.keyboard.press("End")
    assert page.input_value("#slider") == "100"
    assert clips(page)[0] == "inset(0px 0% 0px 0px)" and page.inner_text("#name") == "cats/one"


def test_layers_are_chosen_by_keys_and_by_list(open_page: Open) -> None:
    page = open_page("#image=1")
    page.wait_for_selector("#viewer:not([hidden])")
    assert page.inner_text("#right-tag") == "pseudo mask"
    page.keyboard.press("2")
    assert page.inner_text("#right-tag") == "seed"
    page.select_option("#left-layer", "truth")
    assert page.inner_text("#left-tag") == "truth"
    page.keyboard.press("ArrowLeft")
    true_in(page, "document.getElementById('left-tag').textContent === 'no truth'")
    assert page.inner_text("#name") == HOSTILE


def test_marks_by_keys_alone_are_there_after_a_reload(open_page: Open, review_run: Path) -> None:
    page = open_page()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("b")
    until(lambda: stored(review_run) == {NAMES[1]: "bad"})
    true_in(page, "document.activeElement.textContent.includes('two')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer:not([hidden])")
    page.keyboard.press("g")
    true_in(page, "document.getElementById('name').textContent === 'dogs/three'")
    page.keyboard.press("r")
    page.keyboard.type("ca")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    until(lambda: stored(review_run) == {NAMES[1]: "bad", NAMES[2]: "good", NAMES[3]: "relabel"})
    assert set(read_marks(review_run / MARKS)[0][NAMES[3]].labels or ()) == {"cat", "dog"}
    until(lambda: page.inner_text("#left").startswith("1 of 4 left · 1 good · 0 verified · 1 bad · 1 relabelled"))
    page.keyboard.press("Escape")
    page.wait_for_selector("#overview:not([hidden])")
    page.reload()
    page.wait_for_selector(".cell")
    assert page.locator(".badge:not([hidden])").all_text_contents() == ["bad", "good", "relabel"]
    assert page.inner_text("#left").startswith("1 of 4 left")


def test_undo_takes_back_one_by_one(open_page: Open, review_run: Path) -> None:
    page = open_page("#image=1")
    page.wait_for_selector("#viewer:not([hidden])")
    assert page.is_disabled("#undo")
    for key, name, left in (("g", "cats/two", "3"), ("b", "dogs/three", "2")):
        page.keyboard.press(key)
        true_in(page, f"document.getElementById('name').textContent === '{name}'")
        assert page.inner_text("#left b") == left
    page.keyboard.press("ArrowLeft")
    true_in(page, "document.getElementById('name').textContent === 'cats/two'")
    page.keyboard.press("g")
    until(lambda: stored(review_run).get(NAMES[2]) == "good")
    true_in(page, "document.getElementById('name').textContent === 'dogs/three'")
    for expected in (
        {NAMES[1]: "good", NAMES[2]: "bad"},
        {NAMES[1]: "good", NAMES[2]: None},
        dict.fromkeys(NAMES[1:3]),
    ):
        page.keyboard.press("u")
        until(lambda expected=expected: stored(review_run) == expected)  # type: ignore[misc]
        true_in(page, "document.getElementById('message').textContent.startsWith('undone: cats/')")
    until(lambda: page.is_disabled("#undo"))


FIRST_ANSWER_IS_LATE = """(part) => {
    const ask = window.fetch;
    let late = true;
    window.fetch = (address, options) => {
        if (!late || !address.includes(part)) return ask(address, options);
        late = false;
        return ask(address, options).then((answer) => new Promise((done) => setTimeout(() => {
            done(answer);
            setTimeout(() => { window.came = true; }, 200);
        }, 600)));
    };
}"""
"""The answer to the first request whose address holds `part` comes after later ones; then `window.came` is true."""


def test_late_answer_does_not_put_one_image_under_the_name_of_another(open_page: Open) -> None:
    page = open_page("#image=0")
    page.wait_for_selector("#viewer:not([hidden])")
    page.evaluate(FIRST_ANSWER_IS_LATE, "/api/items")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    true_in(page, "document.getElementById('name').textContent === 'cats/two'")
    true_in(page, "window.came")
    assert page.inner_text("#name") == "cats/two"
    assert page.get_attribute("#photo", "src") == "/image/2"


def test_late_list_does_not_replace_the_newer_one(open_page: Open) -> None:
    page = open_page()
    page.evaluate(FIRST_ANSWER_IS_LATE, "/api/list")
    page.select_option("#by-class", "cat")
    page.select_option("#by-class", "dog")
    until(lambda: names(page) == ["dogs/three"])
    true_in(page, "window.came")
    assert names(page) == ["dogs/three"]


def test_key_pressed_twice_jumps_over_no_image_and_undo_pressed_twice_takes_back_both(
    open_page: Open, review_run: Path
) -> None:
    page = open_page("#image=1")
    page.wait_for_selector("#viewer:not([hidden])")
    page.evaluate("""() => {
        for (const key of "gg") document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    }""")
    until(lambda: stored(review_run) == {NAMES[1]: "good"})
    true_in(page, "document.getElementById('name').textContent === 'cats/two'")
    page.keyboard.press("b")
    true_in(page, "document.getElementById('name').textContent === 'dogs/three'")
    page.evaluate("""() => {
        for (const key of "uuu") document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    }""")
    until(lambda: page.is_disabled("#undo"))
    until(lambda: stored(review_run) == dict.fromkeys(NAMES[1:3]))
    true_in(page, "document.getElementById('message').textContent === 'undone: cats/one'")


def test_window_sees_what_another_one_marked_and_undoes_none_of_it(open_page: Open, review_run: Path) -> None:
    first, second = open_page("#image=1"), open_page("#image=1")
    for page in (first, second):
        page.wait_for_selector("#viewer:not([hidden])")
    first.keyboard.press("b")
    until(lambda: stored(review_run) == {NAMES[1]: "bad"})
    second.evaluate("dispatchEvent(new Event('focus'))")
    second.wait_for_selector("#bad[aria-pressed=true]")
    second.keyboard.press("g")
    until(lambda: stored(review_run) == {NAMES[1]: "good"})
    first.keyboard.press("u")
    true_in(first, "document.getElementById('message').textContent.includes('marked elsewhere')")
    assert stored(review_run) == {NAMES[1]: "good"}


def test_mark_on_an_earlier_mask_says_so(open_page: Open, review_run: Path) -> None:
    page = open_page()
    focus(page, "cats/one")
    page.keyboard.press("b")
    until(lambda: stored(review_run) == {NAMES[1]: "bad"})
    write_manifest(review_run, "second")
    page.reload()
    page.wait_for_selector(".cell")
    assert "bad · new mask" in page.inner_text("#grid")
    page.select_option("#by-mark", "again")
    until(lambda: names(page) == ["cats/one"])


def test_mark_made_with_the_truth_in_view_says_so(open_page: Open, review_run: Path) -> None:
    page = open_page("#image=1")
    page.wait_for_selector("#viewer:not([hidden])")
    page.keyboard.press("5")
    page.keyboard.press("g")
    until(lambda: NAMES[1] in stored(review_run))
    true_in(page, "document.getElementById('name').textContent === 'cats/two'")
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    page.wait_for_selector("#overview:not([hidden])")
    focus(page, "three")
    page.keyboard.press("g")
    until(lambda: NAMES[3] in stored(review_run))
    seen = {name: mark.truth_seen for name, mark in read_marks(review_run / MARKS)[0].items()}
    assert seen == {NAMES[1]: True, NAMES[3]: False}


@pytest.mark.parametrize("width", [340, 640, 1200])
def test_nothing_sticks_out_of_the_window(open_page: Open, width: int) -> None:
    page = open_page(width=width)
    for fragment in ("", "#image=1"):
        page.evaluate(f"location.hash = '{fragment}'")
        page.reload()
        page.wait_for_selector("#viewer:not([hidden])" if fragment else ".cell")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#good", "#bad", "#relabel", "#compare", "#slider", "#close", "#on"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_server_that_is_gone_is_told(open_page: Open, review_run: Path) -> None:
    page = open_page("#image=1")
    page.wait_for_selector("#viewer:not([hidden])")
    page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('gone')); }")
    page.keyboard.press("g")
    true_in(page, "document.getElementById('message').textContent.includes('no longer runs')")
    assert stored(review_run) == {} and page.inner_text("#name") == "cats/one"


def test_a_verified_mask_is_marked_and_undone_by_keys(open_page: Open, review_run: Path) -> None:
    page = open_page("#image=1")
    page.wait_for_selector("#viewer:not([hidden])")
    page.keyboard.press("v")
    until(lambda: (review_run / "verified/cats/one.png").is_file())
    until(lambda: stored(review_run) == {"cats/one": "verified"})
    until(lambda: not page.is_disabled("#undo"))  # the page has the server's answer
    page.keyboard.press("u")
    until(lambda: read_marks(review_run / MARKS)[0]["cats/one"].undo)  # written last
    assert not (review_run / "verified").exists()


@pytest.mark.parametrize("width", [1280, 420])
def test_the_photo_at_its_own_size(open_page: Open, width: int) -> None:
    page = open_page("#image=1", width=width)
    page.wait_for_selector("#viewer:not([hidden])")
    page.keyboard.press("z")
    true_in(page, "document.getElementById('compare').getBoundingClientRect().width === 24")
    assert page.get_attribute("#size", "aria-pressed") == "true"
    page.keyboard.press("z")
    true_in(page, "document.getElementById('compare').getBoundingClientRect().width > 200")
    true_in(page, "document.documentElement.scrollWidth <= innerWidth")


def test_undo_pressed_before_the_servers_answer_takes_the_mark_back(open_page: Open, review_run: Path) -> None:
    page = open_page("#image=1")
    page.wait_for_selector("#viewer:not([hidden])")
    page.evaluate("""() => {
        for (const key of "vu") document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    }""")
    true_in(page, "document.getElementById('message').textContent === 'undone: cats/one'")
    assert read_marks(review_run / MARKS)[0]["cats/one"].undo
    assert not (review_run / "verified").exists()
