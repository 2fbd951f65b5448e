"""Peak memory of every command over data sets of several sizes: it should not depend on the number of images.

    python benchmarks/memory.py --out /tmp/memory                         # 500, 5,000 and 20,000 images
    python benchmarks/memory.py --out /tmp/memory --images 500 2000 --only predict --json memory.json

The images are drawn scenes as JPEGs with a labels.csv and true masks, read as a folder of one's own. The settings are
the demo's, for small images, with short trainings and one scale. Every command is a process of its own, which works on
all images; its figure is the largest resident memory that the system counted for it (VmHWM), libraries included. Linux
only. A folder that is there already is used again, and measured commands are not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

SIDE = 64
"""Of an image, pixels: large enough that 20,000 images held in memory would show, 250 MB, and quickly worked on."""

STEPS = 8
"""Of the trainings, whose order and list of images are those of all images."""

LIMIT = ["--limit-steps", str(STEPS)]


def write_folder(root: Path, count: int) -> None:
    """A folder data set of drawn images. Imports torch, and so is a process of its own, for a light parent."""
    from weakclip.datasets import ScenesDataset
    from weakclip.datasets.images import write_mask
    from weakclip.store.progress import track

    dataset = ScenesDataset("train", count=count, size=SIDE)
    names, palette = dataset.class_set.names, dataset.class_set.palette
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index in track(range(count), "drawing images", total=count):
        Image.fromarray(dataset.image(index)).save(root / "images" / f"{dataset.names[index]}.jpg", quality=90)
        write_mask(root / "masks" / f"{dataset.names[index]}.png", dataset.mask(index), palette)
    (root / "classes.yaml").write_text(json.dumps({"names": list(names[1:])}))
    with (root / "labels.csv").open("w", newline="") as file:  # last: it says that the folder is whole
        table = csv.writer(file)
        table.writerow(["image", "labels"])
        for index in range(count):
            table.writerow([f"{dataset.names[index]}.jpg", ";".join(names[label] for label in dataset.labels(index))])


def commands(root: Path, out: Path) -> dict[str, list[str]]:
    """The commands that are measured, in the order of a run."""
    windows = f"inference={{scales: [1.0], flip: false, crop: {SIDE}, stride: {SIDE}, fit_crop: true, batch_size: 4}}"
    settings = [f"--set={stage}.{windows}" for stage in ("pseudo_masks", "evaluate")]
    settings += [f"--set=augment.crop_size={SIDE}", "--set=retrain.model=small"]
    data = [f"--set=data.root={root}", "--set=data.dataset=folder", "--set=data.val_split=null"]
    stage = ["demo", f"--out={out / 'run'}", *data, *settings, *LIMIT]
    return {
        "data check": ["data", "check", "demo", *data],
        "seeds": ["seeds", *stage],
        "train": ["train", *stage],
        "pseudo-masks": ["pseudo-masks", *stage],
        "retrain": ["retrain", *stage],
        "evaluate": ["evaluate", *stage],
        "report": ["report", str(out / "run")],
        "predict": ["predict", str(out / "run"), str(root / "images"), f"--out={out / 'predicted'}"],
        "export masks coco": ["export", "masks", str(out / "run"), "--format=coco", f"--out={out / 'coco.json'}"],
        "export masks cvat": ["export", "masks", str(out / "run"), "--format=cvat", f"--out={out / 'cvat.xml'}"],
        "import": ["import", str(out / "coco.json"), f"--run={out / 'run'}", f"--out={out / 'imported'}"],
        "export dataset": ["export", "dataset", str(out / "run"), f"--out={out / 'dataset'}"],
    }


def measure(arguments: Sequence[str], log: Path) -> dict[str, float]:
    """Run a command, and watch its memory.

    Returns:
        `peak_mib`, the largest resident memory, and `seconds`.
    """
    with log.open("w") as file:
        began, peak = time.monotonic(), 0
        process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _peak_kib(process.pid))
            time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)}: exit code {process.returncode}; see {log}")
    return {"peak_mib": round(peak / 1024, 1), "seconds": round(time.monotonic() - began, 1)}


def _peak_kib(pid: int) -> int:
    """VmHWM of a process: it never falls, so that nothing between two looks is missed but the last instants."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row a command, a column a number of images, MiB."""
    counts = list(results)
    lines = ["| command | " + " | ".join(f"{int(count):,} images" for count in counts) + " |"]
    lines.append("|" + "---|" * (len(counts) + 1))
    for name in next(iter(results.values())):
        cells = [f"{results[count][name]['peak_mib']:,.0f}" if name in results[count] else "" for count in counts]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5_000, 20_000])
    parser.add_argument("--only", default="", help="commands whose name holds this text; those before must be done")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--draw", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.draw:
        write_folder(options.out, options.draw)
        return
    results: dict[str, dict[str, dict[str, float]]] = {}
    for count in options.images:
        out = (options.out / str(count)).resolve()
        if not (out / "data/labels.csv").exists():
            subprocess.run([sys.executable, __file__, f"--out={out / 'data'}", f"--draw={count}"], check=True)
        stored = out / "measured.json"
        results[str(count)] = found = json.loads(stored.read_text()) if stored.exists() else {}
        for name, command in commands(out / "data", out).items():
            if options.only in name and name not in found:
                found[name] = measure(
                    [sys.executable, "-m", "weakclip", *command], out / f"{name.replace(' ', '_')}.log"
                )
                stored.write_text(json.dumps(found, indent=2) + "\n")
                print(f"{count:,} images, {name}: {found[name]}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
