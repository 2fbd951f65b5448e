"""The report in a real browser: it sorts, filters and opens by keyboard, reads names as text and asks for nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weakclip.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE_IMAGE = 'sub/</script><img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install weakclip[browser]")
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"no browser at {CHROMIUM}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """Errors, dialogs and messages of the console, and addresses outside the run folder."""
    return []


@pytest.fixture
def page(browser: Browser, images_folder: Path, complaints: list[str]) -> Iterator[Page]:
    """The report of the made-up run, from the disk, with no network."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    home = images_folder.as_uri()

    def on_request(request: Any) -> None:
        if not request.url.startswith((home, "data:")):
            complaints.append(f"request {request.url}")

    def on_dialog(dialog: Any) -> None:
        complaints.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page.on("request", on_request)
    page.on("dialog", on_dialog)
    page.on("pageerror", lambda error: complaints.append(f"error {error}"))
    page.on("console", lambda message: complaints.append(f"console {message.text}"))
    page.goto(write_report(images_folder).as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    yield page
    context.close()
    assert complaints == []


def column(page: Page, title: str) -> list[str]:
    """Texts of one column of the table of images."""
    titles = page.locator("#head th").all_inner_texts()
    place = titles.index(title) + 1
    return page.locator(f"#rows > tr:not(.details) > :nth-child({place})").all_inner_texts()


def numbers(page: Page, title: str) -> list[float]:
    return [float(text) for text in column(page, title)]


def header(page: Page, title: str) -> Any:
    return page.locator("#head button", has_text=title).first


def loaded(page: Page, pictures: str) -> None:
    """Wait for pictures; raises where one cannot be decoded."""
    page.evaluate("where => Promise.all([...document.querySelectorAll(where)].map(each => each.decode()))", pictures)


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.innerText || document.activeElement.id"))


def test_worst_come_first_and_pages_hold_fifty(page: Page) -> None:
    doubts = numbers(page, "Doubt")
    assert len(doubts) == 50
    assert doubts == sorted(doubts, reverse=True)
    assert page.locator("#range").inner_text() == "1–50 of 130 images"
    page.get_by_role("button", name="Last").click()
    assert page.locator("#range").inner_text() == "101–130 of 130 images"
    assert numbers(page, "Doubt")[0] <= doubts[-1]
    assert page.get_by_role("button", name="Next").get_attribute("aria-disabled") == "true"
    page.get_by_role("button", name="Next").press("Enter")
    assert page.locator("#range").inner_text() == "101–130 of 130 images"


def test_headers_sort_both_ways_and_say_so(page: Page) -> None:
    header(page, "CRF change").click()
    changes = numbers(page, "CRF change")
    assert changes[0] == 12.9
    assert changes == sorted(changes, reverse=True)
    assert page.locator("#head th[aria-sort=descending]").inner_text() == "CRF change"
    header(page, "CRF change").click()
    assert numbers(page, "CRF change")[0] == 0.0
    assert page.locator("#head th[aria-sort=ascending]").inner_text() == "CRF change"
    assert page.locator("#head th:not([aria-sort=none])").count() == 1


def test_header_works_by_keyboard_and_keeps_the_focus(page: Page) -> None:
    header(page, "Confidence").focus()
    page.keyboard.press("Enter")
    first = numbers(page, "Confidence")
    assert first == sorted(first) and focused(page) == "Confidence"
    page.keyboard.press("Space")
    assert numbers(page, "Confidence") == sorted(numbers(page, "Confidence"), reverse=True)
    assert focused(page) == "Confidence"


def test_everything_is_reached_by_tab_in_the_order_of_the_page_with_a_visible_focus(page: Page) -> None:
    wanted = [
        "Skip to the images",
        "At a glance",
        "Most doubtful",
        "Coverage",
        "by-class",
        "by-finding",
        "by-name",
        "Doubt",
    ]
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        radio = "document.activeElement.type === 'radio' ? document.activeElement.parentElement.innerText : ''"
        place = page.evaluate(radio) or page.evaluate("document.activeElement.id") or focused(page)
        seen.append(place)
        outline = "getComputedStyle(e.type === 'radio' ? e.nextElementSibling : e).outlineStyle"
        assert page.evaluate(f"(e => {outline})(document.activeElement)") != "none", place
    places = [seen.index(name) for name in wanted]
    assert places == sorted(places)
    assert len(seen) == len(set(seen)) or "image_" in " ".join(seen)


def test_kinds_are_radio_buttons_with_arrow_keys(page: Page) -> None:
    page.locator("#kinds input").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#kinds input:checked").get_attribute("value") == "missed"
    assert page.locator(".case h3").all_inner_texts() == ["image_003"]
    assert page.locator(".case .missing").inner_text() == "a \"dog\" & 'cat': missing"
    page.keyboard.press("ArrowRight")
    assert page.locator("#kinds input:checked").get_attribute("value") == "area"
    assert "image_005" in page.locator(".case h3").all_inner_texts()


def test_seed_and_network_lists_find_the_image_that_disagrees(page: Page) -> None:
    for value in ("seed", "prediction"):
        page.locator(f"#kinds input[value={value}]").check()
        assert page.locator(".case h3").first.inner_text() == "image_006"


def test_class_filter_shows_its_images_with_its_figures(page: Page) -> None:
    page.get_by_label("Finding").select_option("missing")
    assert column(page, "Image")[0].startswith("image_003")
    assert page.locator("#range").inner_text() == "1–1 of 1 image"
    page.get_by_label("Finding").select_option("all")
    page.get_by_label("Class", exact=True).select_option("2")
    header(page, "Area").click()
    assert page.locator("#range").inner_text() == "1–50 of 130 images, figures of a \"dog\" & 'cat'"
    areas = numbers(page, "Area")
    assert areas == sorted(areas, reverse=True)
    assert areas[0] == 7.8  # 15 of 192 pixels
    page.get_by_label("Name holds").fill("IMAGE_01")
    assert page.locator("#range").inner_text().startswith("1–10 of 10 images")
    page.get_by_label("Name holds").fill("nothing")
    assert page.locator("#range").inner_text().startswith("0 images")


def test_class_table_sorts_and_leads_to_the_images(page: Page) -> None:
    table = page.locator("#class-table")
    table.get_by_role("button", name="Coverage").press("Enter")
    assert table.locator("tbody th").first.inner_text() == "a \"dog\" & 'cat'"
    assert table.locator("th[aria-sort=ascending]").inner_text() == "Coverage"
    assert table.locator("tbody th").last.inner_text() == "background"  # has no coverage: last either way
    table.get_by_role("button", name="Coverage").press("Space")
    assert table.locator("tbody th").last.inner_text() == "background"
    table.get_by_role("button", name="dog").press("Enter")
    assert "figures of a \"dog\" & 'cat'" in page.locator("#range").inner_text()
    assert page.evaluate("document.activeElement.id") == "by-class"


def test_row_opens_by_keyboard_and_shows_its_pictures_from_the_folder(page: Page) -> None:
    page.get_by_label("Name holds").fill("image_1")
    header(page, "Confidence").click()
    header(page, "Confidence").click()  # the most confident first: not among those in the page
    name = page.locator("#rows .name").first
    name.focus()
    page.keyboard.press("Enter")
    assert name.get_attribute("aria-expanded") == "true"
    pictures = page.locator(".details img")
    assert pictures.count() == 4
    assert pictures.first.get_attribute("src").startswith("3_pseudo_masks/strips/image_1")
    loaded(page, ".details img")
    assert page.locator(".details tbody th").all_inner_texts()[0] == "background"
    page.keyboard.press("Space")
    assert page.locator(".details").count() == 0
    assert name.get_attribute("aria-expanded") == "false"


def test_a_strip_is_shown_picture_by_picture(page: Page) -> None:
    """Dark, red and green are the three pictures of the made-up strips."""
    page.locator("#worst .case").first.scroll_into_view_if_needed()
    shown = page.locator("#worst .case").first.locator("img")
    shots = [_middle_color(shown.nth(place).screenshot()) for place in range(3)]
    assert [max(range(3), key=shot.__getitem__) for shot in shots[1:]] == [0, 1]
    assert max(shots[0]) < 60 and min(max(shots[1]), max(shots[2])) > 180


def _middle_color(png: bytes) -> tuple[int, int, int]:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        red, green, blue = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
        return red, green, blue


@pytest.mark.parametrize("name", [HOSTILE_IMAGE, "100% #1 & ?", "</td>'\""])
def test_hostile_names_are_shown_as_they_are_and_find_their_pictures(page: Page, name: str) -> None:
    page.get_by_label("Name holds").fill(name)
    assert page.locator("#range").inner_text().startswith("1–1 of 1 image")
    button = page.locator("#rows .name")
    assert button.inner_text() == name
    button.click()
    loaded(page, ".details img")
    assert page.locator(".details img").count() == 4
    assert page.locator("img[src=x]").count() == 0


def test_page_apart_from_its_folder_says_what_it_lacks(
    browser: Browser, images_folder: Path, tmp_path: Path, complaints: list[str]
) -> None:
    moved = tmp_path / "elsewhere.html"
    moved.write_bytes(write_report(images_folder).read_bytes())
    page = browser.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(moved.as_uri())
    assert page.locator("#worst img").count() > 0
    loaded(page, "#worst img")
    page.get_by_role("button", name="Last").click()
    page.locator("#rows .name").last.click()
    page.wait_for_selector(".details .absent")
    assert "not found: 3_pseudo_masks/strips" in page.locator(".details .absent").first.inner_text()
    assert complaints == []
    page.close()


def test_an_added_script_does_not_run(browser: Browser, images_folder: Path) -> None:
    """The content policy admits the page's own script alone, by its digest."""
    path = write_report(images_folder)
    path.write_text(path.read_text(encoding="utf-8").replace("</main>", "</main><script>window.ran = 1</script>"))
    page = browser.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert page.evaluate("window.ran") is None
    page.close()


@pytest.mark.parametrize("width", [320, 480, 800, 1280])
def test_no_window_is_too_narrow(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    page.locator("#rows .name").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".pictures img").first.bounding_box()["width"] >= 60
    for picture in page.locator(".details .pictures img").all():
        box = picture.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    for control in ("#by-class", "#by-finding", "#by-name", "#kinds label"):
        box = page.locator(control).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_every_control_has_a_name_and_every_picture_a_text(page: Page) -> None:
    page.locator("#rows .name").first.click()
    nameless = """() => [...document.querySelectorAll('button, select, input, img, svg[role=img]')].filter(e =>
        !(e.innerText || e.alt || e.labels?.[0]?.innerText || e.querySelector?.('title')?.textContent)).length"""
    assert page.evaluate(nameless) == 0
    assert page.evaluate("[...document.querySelectorAll('[id]')].length") == page.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
    )


def test_run_without_masks_has_a_page_without_errors(browser: Browser, run_folder: Path, complaints: list[str]) -> None:
    page = browser.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(write_report(run_folder).as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert "No masks have been made yet" in page.locator("#glance").inner_text()
    assert complaints == []
    page.close()
