"""A training step and an inference as the released WeakCLIP computes them, written from its description, to be timed.

The weights are those of a model of this package, so that both sides have the same shapes; the work is the released one
(docs/differences.md; github.com/hustvl/WeakCLIP, weakclip/weakclip.py, models.py and heads.py were read for it):

- both towers of CLIP are in the graph and in the optimiser, with stochastic depth in the image tower;
- nothing is computed again in the backward pass;
- every layer of co-attention reads the first input, so that only the last one counts; attention is spelled out;
- the finest maps of the pyramid are made with all their channels, and the match map is joined to them;
- the decoder enlarges all its channels before it classifies them;
- the distances of all pixels of the loss's grid are computed, and their nearest neighbours sorted, which nothing reads;
- in inference the text tower runs for every batch of windows, and every window is enlarged before the mean is taken.

The loss's dense CRF is this package's on both sides: the released one runs on the host, and takes some 15 ms an image.
`torch.autograd.set_detect_anomaly`, which the released training switches on, is left out: it would double the time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.modeling import WeakCLIP, WeakCLIPOutput
from weakclip.modeling.co_attention import Attention, match_pixels

DROP_PATH = 0.1
NEIGHBOURS = 10


class ReleasedWeakCLIP(nn.Module):
    """The released arithmetic on the weights of a model of this package, all of which get gradients.

    Args:
        model: with a `FrozenCLIP`; it is changed: its encoder no longer is frozen.
        grid: side of the loss's grid; the nearest neighbours on it are computed in training.
    """

    def __init__(self, model: WeakCLIP, grid: int = 64) -> None:
        super().__init__()
        self.model, self.grid = model.requires_grad_(True), grid

    def forward(self, images: Tensor) -> WeakCLIPOutput:
        """`(B, 3, H, W)` uint8 to what WeakCLIP gives."""
        model = self.model
        maps, tokens, grid = self._image_tower(images)
        levels = model.pyramid_adapter(maps)
        text = self._text_tower().expand(len(images), -1, -1)
        text, image = self._co_attention(text, tokens)
        match_map = match_pixels(image, text, grid)
        guided = [torch.cat([level, _resized(match_map, level, corners=True)], dim=1) for level in levels]
        features = self._decode(guided)
        logits = model.decoder.head.classifier(model.decoder.head.dropout(features))
        if self.training:
            self._neighbours(features)
        return WeakCLIPOutput(logits=logits, match_map=match_map, class_embeddings=text)

    def _image_tower(self, images: Tensor) -> tuple[list[Tensor], Tensor, tuple[int, int]]:
        clip = self.model.clip
        hidden, grid = clip.embed_image(images)
        maps, blocks = [], clip.blocks
        for index, block in enumerate(blocks):
            changed = block(hidden, None)
            rate = DROP_PATH * index / max(1, len(blocks) - 1) if self.training else 0.0
            kept = (torch.rand(len(hidden), 1, 1, device=hidden.device) >= rate).to(hidden.dtype) / (1 - rate)
            hidden = hidden + (changed - hidden) * kept if rate else changed
            if index + 1 in clip.tap_layers:
                maps.append(hidden[:, 1:].transpose(1, 2).unflatten(2, grid).contiguous())
        return maps, clip.project(clip.final_norm(hidden)), grid

    def _text_tower(self) -> Tensor:
        embeddings, ends = self.model.prompt()
        clip = self.model.clip.model
        tower, (count, length, _) = clip.text_model, embeddings.shape
        hidden = tower.embeddings(inputs_embeds=embeddings)
        mask = torch.full((length, length), torch.finfo(hidden.dtype).min, device=hidden.device).triu(1)
        for block in tower.encoder.layers:
            hidden = block(hidden, attention_mask=mask.expand(count, 1, length, length))
        last = tower.final_layer_norm(hidden)[torch.arange(count, device=hidden.device), ends]
        return clip.text_projection(last)[None]

    def _co_attention(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        both = self.model.co_attention
        memory, words = both.image_projection(image), both.text_projection(text)
        for layer in both.text_layers:
            text_change = _decoder_layer(layer, words, memory)
        for layer in both.image_layers:
            image_change = _decoder_layer(layer, memory, words)
        return text + both.alpha * both.text_output(text_change), image + both.beta * both.image_output(image_change)

    def _decode(self, guided: list[Tensor]) -> Tensor:
        pyramid, head = self.model.decoder.feature_pyramid, self.model.decoder.head
        merged = [layer(level) for layer, level in zip(pyramid.laterals, guided, strict=True)]
        for finer in (2, 1, 0):
            merged[finer] = merged[finer] + F.interpolate(merged[finer + 1], size=merged[finer].shape[2:])
        outputs = [output(level) for output, level in zip(pyramid.outputs, merged, strict=True)]
        total = head.branches[0](outputs[0])
        for branch, level in zip(head.branches[1:], outputs[1:], strict=True):
            total = total + _resized(branch(level), total)
        return total

    def _neighbours(self, features: Tensor) -> None:
        with torch.no_grad():
            small = F.interpolate(features.float(), size=(self.grid, self.grid), mode="bilinear").flatten(2)
            square = small.square().sum(dim=1)
            distance = square[:, :, None] + square[:, None] - 2 * small.transpose(1, 2) @ small
            nearest = distance.topk(NEIGHBOURS, dim=2, largest=False).indices
            torch.zeros_like(distance).scatter_(2, nearest, 1.0)


def _decoder_layer(layer: nn.Module, x: Tensor, memory: Tensor) -> Tensor:
    own = layer.self_norm(x)
    x = x + _attention(layer.self_attention, own, own)
    x = x + _attention(layer.cross_attention, layer.cross_norm(x), memory)
    return x + layer.mlp(x)


def _attention(parts: Attention, x: Tensor, memory: Tensor) -> Tensor:
    query, key, value = (
        each.unflatten(-1, (parts.heads, -1)) for each in (parts.query(x), parts.key(memory), parts.value(memory))
    )
    weights = torch.einsum("bnkc,bmkc->bknm", query, key) * query.shape[-1] ** -0.5
    mixed = torch.einsum("bknm,bmkc->bnkc", weights.softmax(dim=-1), value)
    return parts.dropout(parts.output(mixed.flatten(2)))


def _resized(maps: Tensor, like: Tensor, *, corners: bool = False) -> Tensor:
    return F.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=corners)


@torch.no_grad()
def released_probs(network: nn.Module, pixels: Tensor, passes: list[tuple[float, bool]], crop: int = 512) -> Tensor:
    """Mean probabilities of an image over scales and flips, window by window as mmsegmentation does it.

    Args:
        network: a `ReleasedWeakCLIP` in evaluation mode.
        pixels: `(3, H, W)` uint8.
        passes: pairs of a scale, on sides of which the shorter is `crop` at 1, and whether the image is mirrored.
        crop: side of a window; every 341 of 512 pixels begins one.

    Returns:
        `(K, H, W)` float32.
    """
    total: Tensor | float = 0.0
    height, width = pixels.shape[1:]
    for scale, flip in passes:
        factor = scale * crop / min(height, width)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        image = F.interpolate(pixels[None].float(), size=size, mode="bilinear").round().to(torch.uint8)
        image = image.flip(3) if flip else image
        sums: Tensor | float = 0.0
        count = torch.zeros(1, 1, *size, device=pixels.device)
        for rows, columns in _windows(size, crop, crop * 341 // 512):
            window = image[:, :, rows, columns]
            logits = F.interpolate(network(window).logits.float(), size=window.shape[2:], mode="bilinear")
            before, after = columns.start, size[1] - columns.stop
            sums = sums + F.pad(logits, (before, after, rows.start, size[0] - rows.stop))
            count[:, :, rows, columns] += 1
        whole = F.interpolate(sums / count, size=(height, width), mode="bilinear").softmax(dim=1)
        total = total + (whole.flip(3) if flip else whole)[0]
    return total / len(passes)


def _windows(size: tuple[int, int], crop: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """mmsegmentation's grid: the last window ends with the side, however near the one before is."""
    starts = [[*range(0, max(0, side - crop), stride), max(0, side - crop)] for side in size]
    for top in starts[0]:
        for left in starts[1]:
            yield slice(top, min(top + crop, size[0])), slice(left, min(left + crop, size[1]))
