"""Size of the report of a large run, and how long Chromium takes to open it: median and spread of several openings.

    python benchmarks/report.py --out /tmp/made_up_run                  # 10,000 drawn images
    python benchmarks/report.py --out /tmp/made_up_run --images 1000 --json report.json

The run folder is made up: pictures of Scenes, whose true masks, shifted and now and then stripped of a class, stand for
seeds, pseudo masks and predictions. No network is trained. A folder that is there already is used again. Opening is
measured in a fresh browser each time, from the address to the event DOMContentLoaded, and to the moment when the first
rows of the table are laid out and painted. Needs playwright and Chromium (`pip install weakclip[browser]`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import time
from pathlib import Path

import numpy as np

from weakclip.datasets import ScenesDataset
from weakclip.inference.mask_statistics import STATISTICS, class_means, compare_masks, statistics_line
from weakclip.pipeline.pictures import class_entries, write_strip
from weakclip.report import write_report
from weakclip.store.files import write_json
from weakclip.store.layout import CAPTIONS, MANIFEST, STAGE_FOLDERS, STRIPS, strip_path
from weakclip.store.lines import LineLog
from weakclip.store.manifest import FORMAT
from weakclip.store.progress import track

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
PAINTED = "() => new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0)))"


def variation(mask: np.ndarray, labels: tuple[int, ...], rng: np.random.Generator, shift: int) -> np.ndarray:
    """A mask that is wrong as masks are: shifted, now and then without a class, or filled by one."""
    made = np.roll(mask, rng.integers(-shift, shift + 1, 2), axis=(0, 1))
    chance = rng.random()
    if labels and chance < 0.05:
        made[made == rng.choice(labels)] = 0
    elif labels and chance < 0.06:
        made[rng.random(mask.shape) < 0.95] = rng.choice(labels)
    return made


def fabricate(out: Path, count: int) -> None:
    """A run folder of `count` images, as the stages leave it, without checkpoints and full-size masks."""
    dataset = ScenesDataset("train", count=count)
    folders = {stage: out / STAGE_FOLDERS[stage] for stage in ("pseudo_masks", "evaluate")}
    logs = {stage: LineLog(folder / STATISTICS) for stage, folder in folders.items()}
    for index in track(range(count), "making up a run", total=count):
        if dataset.names[index] not in logs["evaluate"]:
            _fabricate_image(dataset, index, folders, logs)
    for log in logs.values():
        log.finish(dataset.names)
    write_json(folders["pseudo_masks"] / STRIPS / CAPTIONS, ["image", "seed", "pseudo mask"])
    write_json(folders["evaluate"] / STRIPS / CAPTIONS, ["prediction", "truth"])
    write_json(folders["pseudo_masks"] / "metrics.json", {"classes": class_entries(dataset.class_set)})
    record = {"inputs": {}, "done": True, "seconds": 0.0}
    stages = {stage: {"key": stage, **record} for stage in folders}
    write_json(out / MANIFEST, {"format": FORMAT, "stages": stages})


def _fabricate_image(dataset: ScenesDataset, index: int, folders: dict[str, Path], logs: dict[str, LineLog]) -> None:
    rng = np.random.default_rng(index)
    sample, truth = dataset[index], dataset.mask(index)
    masks = {"mask": variation(truth, sample.labels, rng, 3), "seed": variation(truth, sample.labels, rng, 8)}
    masks["seed"][rng.random(truth.shape) < 0.2] = 255
    confidence = rng.beta(8, 2, truth.shape)
    made = dataclasses.replace(
        compare_masks(sample.name, sample.labels, masks),
        confidence=round(float(confidence.mean()), 4),
        class_confidence=class_means(confidence, masks["mask"]),
        crf_change=round(float(rng.beta(2, 30)), 4),
    )
    masks |= {"prediction": variation(masks["mask"], sample.labels, rng, 5), "truth": truth}
    for stage, shown in (
        ("pseudo_masks", (None, masks["seed"], masks["mask"])),
        ("evaluate", (masks["prediction"], masks["truth"])),
    ):
        write_strip(strip_path(folders[stage], sample.name), sample.image, shown, dataset.class_set)
    logs["pseudo_masks"].add(statistics_line(made))
    logs["evaluate"].add(statistics_line(compare_masks(sample.name, sample.labels, masks)))


def openings(page: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds to DOMContentLoaded, to the painted table, and to a table that is sorted and painted anew."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {"dom_content_loaded_s": [], "table_painted_s": [], "sorted_s": []}
    with sync_playwright() as playwright:
        for _ in range(repeats):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(page.resolve().as_uri(), wait_until="domcontentloaded")
            painted = tab.evaluate(PAINTED)
            assert tab.locator("#rows tr").count() > 0
            navigation = tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
            sort = f"async () => {{ const start = performance.now(); document.querySelector('#head button').click(); \
                return await ({PAINTED})() - start; }}"
            found["dom_content_loaded_s"].append(navigation / 1000)
            found["table_painted_s"].append(painted / 1000)
            found["sorted_s"].append(tab.evaluate(sort) / 1000)
            browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the made-up run folder")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    started = time.perf_counter()
    fabricate(options.out, options.images)
    made = time.perf_counter()
    page = write_report(options.out)
    written = time.perf_counter()
    figures: dict[str, object] = {
        "images": options.images,
        "run_made_up_in_s": round(made - started, 1),
        "page_written_in_s": round(written - made, 2),
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "strips_mb": round(sum(path.stat().st_size for path in options.out.rglob("strips/**/*.jpg")) / 1e6, 1),
    }
    for name, values in openings(page, options.repeats).items():
        figures[name] = {"median": round(statistics.median(values), 3), "least": min(values), "most": max(values)}
    for name, value in figures.items():
        print(f"{name}: {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
