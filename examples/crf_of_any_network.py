"""The dense CRF after any segmentation network: probabilities in, sharpened probabilities out.

    python examples/crf_of_any_network.py nvidia/segformer-b0-finetuned-ade-512-512 photo.jpg mask.png

The network is any folder or hub id that `AutoModelForSemanticSegmentation` loads, for instance `4_retrain` of a run.
Nothing of WeakCLIP is needed; numpy arrays of another framework work as well.
"""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional
from transformers import AutoModelForSemanticSegmentation

from weakclip.crf import CRFParams, Kernel, dense_crf
from weakclip.datasets.classes import voc_palette
from weakclip.datasets.images import read_rgb, write_mask

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's, as SegFormer's


def main() -> None:
    """Predict a photo, sharpen the probabilities along its edges, and write the mask."""
    parser = argparse.ArgumentParser(description="Sharpen a network's prediction by the dense CRF.")
    parser.add_argument("network", help="hub id or folder for AutoModelForSemanticSegmentation")
    parser.add_argument("photo")
    parser.add_argument("mask", help="palette PNG to write")
    arguments = parser.parse_args()

    network = AutoModelForSemanticSegmentation.from_pretrained(arguments.network).eval()
    image = torch.from_numpy(read_rgb(arguments.photo)).permute(2, 0, 1)
    pixels = (image / 255 - MEAN[:, None, None]) / STD[:, None, None]
    with torch.no_grad():
        logits = network(pixel_values=pixels[None]).logits
    logits = functional.interpolate(logits, size=image.shape[1:], mode="bilinear", align_corners=False)
    probs = logits.softmax(dim=1)[0]

    params = CRFParams(kernels=(Kernel(sxy=3, weight=3), Kernel(sxy=80, srgb=13, weight=10)), iterations=10)
    sharpened = dense_crf(image, probs, params)
    changed = (sharpened.argmax(0) != probs.argmax(0)).float().mean().item()
    write_mask(arguments.mask, sharpened.argmax(0).byte().numpy(), voc_palette(256))
    print(f"{arguments.mask}: {100 * changed:.1f} % of the pixels changed their class")


if __name__ == "__main__":
    main()
