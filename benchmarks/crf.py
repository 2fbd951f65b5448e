"""Time the dense CRF against pydensecrf, alternating both on the same images: median of the paired ratios and spread.

    python benchmarks/crf.py                          # pictures of Scenes, enlarged
    python benchmarks/crf.py --photos VOC2012/JPEGImages --threads 2 --json crf.json

With one thread both sides are given in CPU time of the thread, image by image; with several, as the wall time of a
batch, which pydensecrf works off one image after the other: as many images as threads, but eight of 64×64, the batch of
the training loss. Where pydensecrf cannot be imported (`pip install pydensecrf2`
builds it from source, with a compiler), only our times are given. `--memory` adds the peak memory of each side, each in
a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from weakclip.crf import COCO_CRF, LOSS_CRF, VOC_CRF, CRFParams
from weakclip.datasets.scenes import ScenesDataset

try:
    from pydensecrf import densecrf as peer
except ImportError:
    peer = None

FLOOR = 1e-5  # the probability at which absent labels are held


@dataclass(frozen=True)
class Case:
    """Size of an image, number of labels, how many of them stand at one common floor, the kernels, images a batch."""

    name: str
    height: int
    width: int
    labels: int
    absent: int
    params: CRFParams
    batch: int = 1


CASES = (
    Case("64x64 K21", 64, 64, 21, 0, LOSS_CRF, 8),
    Case("64x64 K21, 18 floored", 64, 64, 21, 18, LOSS_CRF, 8),
    Case("500x375 K3", 375, 500, 3, 0, VOC_CRF),
    Case("500x375 K21 distinct", 375, 500, 21, 0, VOC_CRF),
    Case("500x375 K21, 18 absent", 375, 500, 21, 18, VOC_CRF),
    Case("640x480 K3", 480, 640, 3, 0, COCO_CRF),
    Case("640x480 K81, 78 absent", 480, 640, 81, 78, COCO_CRF),
)


def pictures(photos: Path | None, count: int) -> list[Image.Image]:
    """`count` photos spread over a folder of JPEGs, or pictures of Scenes."""
    if photos is None:
        scenes = ScenesDataset("val", size=256, count=count)
        return [Image.fromarray(scenes.image(index)) for index in range(count)]
    paths = sorted(photos.glob("*.jpg"))
    if len(paths) < count:
        sys.exit(f"{photos} holds {len(paths)} files named *.jpg, expected {count} or more")
    return [Image.open(paths[index * len(paths) // count]).convert("RGB") for index in range(count)]


def problem(case: Case, picture: Image.Image, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The image `(H, W, 3)` uint8 and smooth label probabilities `(K, H, W)` float32."""
    image = np.asarray(picture.resize((case.width, case.height), Image.Resampling.BICUBIC))
    rng = np.random.default_rng([seed, case.labels, case.absent])
    present = case.labels - case.absent
    coarse = rng.normal(0, 2, (present, 12, 12)).astype(np.float32)
    size, smooth = (case.width, case.height), Image.Resampling.BICUBIC
    logits = np.stack([np.asarray(Image.fromarray(plane).resize(size, smooth)) for plane in coarse])
    logits += rng.normal(0, 0.3, logits.shape).astype(np.float32)
    probs = np.exp(logits - logits.max(0))
    probs *= (1 - case.absent * FLOOR) / probs.sum(0)
    floor = np.full((case.absent, case.height, case.width), FLOOR, np.float32)
    return image.copy(), np.concatenate([probs, floor]).astype(np.float32)


def ours(case: Case, images: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Marginals of a batch."""
    from weakclip.crf import dense_crf

    return dense_crf(images, probs, case.params)


def theirs(case: Case, images: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The same by pydensecrf, image after image."""
    results = []
    for image, image_probs in zip(images, probs, strict=True):
        crf = peer.DenseCRF2D(case.width, case.height, case.labels)
        crf.setUnaryEnergy(-np.log(image_probs.reshape(case.labels, -1)))
        for kernel in case.params.kernels:
            if kernel.srgb is None:
                crf.addPairwiseGaussian(sxy=kernel.sxy, compat=kernel.weight)
            else:
                crf.addPairwiseBilateral(sxy=kernel.sxy, srgb=kernel.srgb, rgbim=image, compat=kernel.weight)
        results.append(np.array(crf.inference(case.params.iterations)).reshape(image_probs.shape))
    return np.stack(results)


Side = Callable[[Case, np.ndarray, np.ndarray], np.ndarray]


def measure(case: Case, photos: list[Image.Image], threads: int, repeats: int) -> dict:
    """Median times in milliseconds an image, paired ratios, and how far the two results lie apart."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    times: dict[Side, list[float]] = {ours: [], theirs: []}
    agreement, difference = [], []
    batch = 1 if threads == 1 else max(threads, case.batch)
    if len(photos) < batch:
        sys.exit(f"{case.name} wants {batch} images, found {len(photos)}; raise --images")
    for start in range(0, len(photos) - batch + 1, batch):
        drawn = [problem(case, photo, start + offset) for offset, photo in enumerate(photos[start : start + batch])]
        images, probs = (np.stack(parts) for parts in zip(*drawn, strict=True))
        results = {}
        for side in times if peer else (ours,):
            side(case, images, probs)
        for _ in range(repeats):
            for side in times if peer else (ours,):
                began = clock()
                results[side] = side(case, images, probs)
                times[side].append((clock() - began) * 1e3 / batch)
        if peer:
            agreement.append(float((results[ours].argmax(1) == results[theirs].argmax(1)).mean()))
            difference.append(float(np.abs(results[ours] - results[theirs]).mean()))
    found = {"case": case.name, "threads": threads, "pairs": len(times[ours])}
    found["ours_ms"] = statistics.median(times[ours])
    if peer:
        ratios = sorted(b / a for a, b in zip(times[ours], times[theirs], strict=True))
        found |= {"pydensecrf_ms": statistics.median(times[theirs]), "ratio": statistics.median(ratios)}
        found |= {"ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]]}
        found |= {"argmax_equal": statistics.mean(agreement), "mean_difference": statistics.mean(difference)}
    return found


def _peak_in_child(side: Side, case: Case, photo: Image.Image, pipe: multiprocessing.connection.Connection) -> None:
    """Send MiB: the peak of a call above what the process held before it."""
    images, probs = (part[None] for part in problem(case, photo, 0))
    tiny = Case("", 8, 8, case.labels, case.absent, case.params)
    side(tiny, *(part[None] for part in problem(tiny, photo, 0)))  # imports and compiled code are in the baseline
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    before = _status("VmRSS")
    side(case, images, probs)
    pipe.send((_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    """A number of KiB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_memory(side: Side, case: Case, photo: Image.Image) -> float:
    """MiB by which the peak of a fresh process grows in one call, inputs not counted. Linux only."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak_in_child, args=(side, case, photo, sender))
    process.start()
    found = receiver.recv()
    process.join()
    return float(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEGs; pictures of Scenes where left out")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="pairs an image, or a batch of images")
    parser.add_argument("--threads", type=int, default=1, help="images that we work on at once")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    photos, table = pictures(options.photos, options.images), []
    for case in CASES:
        if options.only not in case.name:
            continue
        found = measure(case, photos, options.threads, options.repeats)
        if options.memory:
            found["ours_mib"] = peak_memory(ours, case, photos[0])
            if peer:
                found["pydensecrf_mib"] = peak_memory(theirs, case, photos[0])
        table.append(found)
        print("  ".join(f"{key} {_short(value)}" for key, value in found.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=2) + "\n")


def _short(value: object) -> str:
    if isinstance(value, list):
        return "…".join(_short(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
