"""How well the report's figures, which read no pixel label, find the bad masks of a run that has true masks.

    python benchmarks/doubts.py runs/demo

For each figure: Spearman's rank correlation, over the images, of how bad the figure calls a mask with its mean IoU with
the true mask (−1: it orders them exactly); and how many of the worst tenth by truth are among the tenth that the figure
calls worst (0.1 is chance).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from weakclip.inference.mask_statistics import mean_over_classes
from weakclip.report import read_images
from weakclip.report.doubts import KINDS, figures_of, ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder whose training split has true masks")
    images = figures_of(read_images(parser.parse_args().run).images)
    scores = [mean_over_classes(image.statistics.mask_truth) for image in images]
    if len(images) < 10 or None in scores:
        sys.exit("the run has fewer than ten images, or images without a true mask")
    truth = np.array(scores, dtype=float)
    tenth = len(images) // 10
    worst = set(np.argsort(truth, kind="stable")[:tenth].tolist())
    print(f"{len(images)} images, mean true IoU {truth.mean():.3f}; of the worst tenth {truth[list(worst)].mean():.3f}")
    for kind in KINDS[:-1]:
        badness = np.array([kind.badness(image) or 0.0 for image in images])
        listed = sum(kind.badness(image) is not None for image in images)
        rho = np.corrcoef(ranks(badness), ranks(truth))[0, 1] if np.ptp(badness) else float("nan")
        found = len(worst & set(np.argsort(-badness, kind="stable")[:tenth].tolist())) / tenth
        print(f"{kind.title}: listed {listed}, Spearman {rho:+.2f}, of the worst tenth found {found:.2f}")


if __name__ == "__main__":
    main()
