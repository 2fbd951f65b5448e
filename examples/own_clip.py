"""Another CLIP as the frozen encoder: a model on the Hugging Face hub, a folder, or an OpenAI `.pt` archive.

    python examples/own_clip.py demo
    python examples/own_clip.py openai/clip-vit-base-patch32
    python examples/own_clip.py my_finetuned_clip/

Whatever its patch size, width and depth, WeakCLIP is built around it; only the parts beside it train. In a
configuration, the same name stands at `clip.source`.
"""

from __future__ import annotations

import argparse

import torch

import weakclip


def main() -> None:
    """Build WeakCLIP around a CLIP, and say what trains and what it gives for an image."""
    parser = argparse.ArgumentParser(description="Build WeakCLIP around a CLIP.")
    parser.add_argument("source", help="hub id, folder in transformers' format, OpenAI .pt archive, or demo")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    clip = weakclip.load_clip(arguments.source, device=arguments.device)
    classes = weakclip.ClassSet.from_foreground(["cat", "boat", "umbrella"])
    model = weakclip.build_weakclip(clip, classes).eval()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"trained parameters: {trained:,} of {total:,}")

    images = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8, device=arguments.device)
    with torch.no_grad():
        output = model(images)
    print("logits", tuple(output.logits.shape), "match map", tuple(output.match_map.shape))


if __name__ == "__main__":
    main()
