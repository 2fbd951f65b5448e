"""Peak memory and seconds of a folder of images with a long table of labels.

    python benchmarks/label_rows.py --rows 10000000 --images 100000

The images are empty files, which opening a data set does not decode. With `tag` each image has `rows / images` rows of
one label each, as Open Images writes them; with `labels` there are as many rows as images. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from weakclip.datasets import FolderDataset

CLASSES = 80


def write_folder(root: Path, rows: int, images: int, column: str) -> None:
    """Write empty images and the table.

    Args:
        root: the folder.
        rows: of the table.
        images: how many.
        column: of the labels, `tag` or `labels`.
    """
    (root / "images").mkdir(parents=True)
    for number in range(images):
        (root / f"images/{number:08d}.jpg").touch()
    with (root / "labels.csv").open("w") as table:
        table.write(f"image,{column}\n")
        table.writelines(f"{row % images:08d}.jpg,class {(row + row // images) % CLASSES:02d}\n" for row in range(rows))


def measure(root: Path) -> dict[str, float]:
    """Seconds and the peak of resident memory, MB, of opening the folder."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    images = len(FolderDataset(root))
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"images": images, "seconds": round(seconds, 1), "start_mb": before // 1024, "peak_mb": peak // 1024}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures of one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--column", choices=("tag", "labels"), default="tag")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder) / "data", given.rows, given.images, given.column)
        print(json.dumps({"rows": given.rows, "column": given.column, **measure(Path(folder) / "data")}))


if __name__ == "__main__":
    main()
