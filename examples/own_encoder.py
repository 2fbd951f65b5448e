"""An encoder of one's own: a convolutional network, no ViT, with a table of class embeddings, no text tower.

    python examples/own_encoder.py runs/own --steps 100

runs the whole method with it on drawn images. From the command line the same, started in the folder of this file:

    weakclip run demo --out runs/own --set clip.source=python:own_encoder:build --set seeds.method=cosine

The weights here are random numbers, so that nothing has to be downloaded, and the masks are as good as that. In yours,
`__init__` would load a network that was trained, and `words` would hold embeddings in which its features and the class
names meet: those of a text model, with `project` fitted to them on image-level labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import weakclip
from weakclip.config import limit_training
from weakclip.datasets import ScenesDataset


class ConvEncoder(weakclip.FrozenEncoder):
    """Four stages of strides 4, 8, 16 and 32; the patches are those of the third one.

    Args:
        names: the texts that the table has an embedding of: all class names, the background's too.
    """

    layer_widths = (16, 24, 40, 64)
    layer_scales = (4.0, 2.0, 1.0, 0.5)
    embed_dim = text_width = 32
    logit_scale = 20.0
    context_length = 64

    def __init__(self, names: Sequence[str]) -> None:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        super().__init__(source="a small convolutional network", pixel_mean=mean, pixel_std=std)
        self.rows = {name: row for row, name in enumerate(names)}
        self.known_texts = frozenset(names)
        widths = (3, *self.layer_widths)
        strides = (4, 2, 2, 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stages = nn.ModuleList(
                nn.Sequential(nn.Conv2d(before, width, 2 * stride - 1, stride, padding=stride - 1), nn.GELU())
                for before, width, stride in zip(widths, widths[1:], strides, strict=False)
            )
            self.project = nn.Linear(self.layer_widths[2], self.embed_dim)
            self.words = nn.Embedding(len(names), self.text_width)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> weakclip.ImageFeatures:
        """Four maps of unequal size, and the patches in the space of the class embeddings."""
        maps, hidden = [], self.normalize(images)
        for stage in self.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        tokens = self.project(maps[2].flatten(2).transpose(1, 2))
        grid = (maps[2].shape[2], maps[2].shape[3])
        return weakclip.ImageFeatures(layers=tuple(maps), tokens=tokens, grid=grid, prefix=0)

    def token_embeddings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """One token a class: its row of the table. The learnable prompt is put before it."""
        unknown = [text for text in texts if text not in self.rows]
        if unknown:
            raise weakclip.errors.DataError(f"{self.source}: has no embedding of {', '.join(map(repr, unknown))}")
        rows = torch.tensor([self.rows[text] for text in texts], device=self.device)
        return self.words(rows)[:, None].detach(), torch.zeros_like(rows)

    def encode_text_embeddings(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """The class's embedding, shifted a little by the prompt: the tokens before the last one."""
        word, prompt = embeddings[:, -1], embeddings[:, :-1]
        return word + 0.1 * prompt.sum(dim=1)


def build() -> ConvEncoder:
    """The encoder of `clip.source: python:own_encoder:build`."""
    return ConvEncoder(ScenesDataset("train", count=1).class_set.names)


def main() -> None:
    """Run the whole method with the encoder as an object, and load what was trained."""
    parser = argparse.ArgumentParser(description="Run the method with an encoder that is no CLIP.")
    parser.add_argument("out", type=Path, help="the run folder")
    parser.add_argument("--steps", type=int, default=100, help="of each training")
    parser.add_argument("--images", type=int, default=50, help="of each split")
    arguments = parser.parse_args()

    limits = [f"data.{split}_limit={arguments.images}" for split in ("train", "val")]
    config = limit_training(weakclip.load_config("demo", ["seeds.method=cosine", *limits]), arguments.steps)
    result = weakclip.run_pipeline(config, arguments.out, clip=build())
    for score in result.scores:
        print(f"{score.subject}: mIoU {100 * score.mean_iou:.1f} %")

    model = weakclip.load_weakclip(arguments.out / "2_train", clip=build())
    print(model.origin)


if __name__ == "__main__":
    main()
