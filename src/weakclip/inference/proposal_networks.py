"""Proposals of a segmentation network of transformers: regions of an image, whatever classes the network was taught.

Two kinds of networks, none of which needs torchvision here:

- with queries (EoMT, MaskFormer, Mask2Former, for which transformers wants scipy): each query has a mask and a score. A
  pixel goes to the query whose score times mask is the highest. Queries below `SURE` are left out, and those of which
  others take a fifth or more (the inference of MaskFormer, Cheng et al., NeurIPS 2021).
- with points (SAM, SAM 2): a grid of `POINTS` x `POINTS` points is asked for, and each gives three masks. Masks stay
  that the network calls good, that a shift of the threshold by 1 changes little, and whose boxes repeat none of a
  better mask (the automatic masks of SAM, Kirillov et al., ICCV 2023, without its crops).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForMaskGeneration, AutoModelForUniversalSegmentation

from weakclip.clip.hub_files import IMAGENET, load_pretrained, pixel_statistics
from weakclip.errors import WeightsError
from weakclip.store.files import expand_home

SURE, KEPT = 0.5, 0.8
"""Of a query: its least score, and the least share of its mask that is its own."""

POINTS, POINTS_AT_ONCE = 32, 64
GOOD, STABLE, ALIKE = 0.88, 0.95, 0.7
"""Of a mask of SAM: the least quality and stability, and the overlap of boxes from which two are the same."""

_LONGEST = 1024  # of networks with queries that take any size
_QUERIES = ("eomt", "eomt_dinov3", "mask2former", "maskformer")
_POINTS = ("sam", "sam2", "sam2_video")


class ProposalNetwork:
    """A network that proposes regions.

    Args:
        model: of one of the kinds above.
        statistics: mean and standard deviation of its pixels 0…1.
    """

    def __init__(self, model: Any, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        self.model = model.requires_grad_(False).eval()
        self.has_points = hasattr(model, "prompt_encoder")
        sides = model.config.prompt_encoder_config if self.has_points else model.config
        side = getattr(sides, "image_size", None) or _LONGEST
        self.side = int(side if isinstance(side, int) else max(side))
        self.squashes = self.has_points and model.config.model_type != "sam"  # SAM 2 takes any image as a square
        self.mean, self.std = (torch.tensor(each).view(3, 1, 1) for each in statistics)

    @torch.no_grad()
    def regions(self, image: np.ndarray) -> list[np.ndarray]:
        """The regions of one image.

        Args:
            image: `(H, W, 3)` uint8 RGB.

        Returns:
            `(H, W)` bool each; none where the network is sure of none.
        """
        size = (image.shape[0], image.shape[1])
        longest = max(size)
        height, width = (self.side if self.squashes else max(1, round(self.side * each / longest)) for each in size)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(self.model.device)
        pixels = F.interpolate(pixels.float() / 255, size=(height, width), mode="bilinear", antialias=True)
        pixels = (pixels - self.mean.to(pixels.device)) / self.std.to(pixels.device)
        pixels = F.pad(pixels, (0, self.side - width, 0, self.side - height))

        def whole(logits: Tensor) -> Tensor:
            """The logits of one mask, `(h, w)` of the padded square, at the size of the image."""
            square = F.interpolate(logits[None, None], size=(self.side, self.side), mode="bilinear")
            return F.interpolate(square[..., :height, :width], size=size, mode="bilinear")[0, 0]

        found = self._of_points(pixels, (height, width), whole) if self.has_points else self._of_queries(pixels, whole)
        return [region.cpu().numpy() for region in found]

    def _of_queries(self, pixels: Tensor, whole: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        output = self.model(pixel_values=pixels)
        scores = output.class_queries_logits[0].float().softmax(dim=-1)[:, :-1].amax(dim=-1)  # the last: no object
        queries = torch.nonzero(scores >= SURE).flatten().tolist()
        masks = [whole(output.masks_queries_logits[0, query].float()).sigmoid() for query in queries]
        best = owner = torch.full_like(masks[0], -1) if masks else torch.empty(0)
        for number, (query, mask) in enumerate(zip(queries, masks, strict=True)):
            owner = torch.where(scores[query] * mask > best, float(number), owner)
            best = torch.maximum(scores[query] * mask, best)
        for number, mask in enumerate(masks):
            own = (mask >= 0.5) & (owner == number)
            if own.any() and own.sum() >= KEPT * (mask >= 0.5).sum():
                yield own

    def _of_points(
        self, pixels: Tensor, fitted: tuple[int, int], whole: Callable[[Tensor], Tensor]
    ) -> Iterator[Tensor]:
        embeddings = self.model.get_image_embeddings(pixels)
        centres = (torch.arange(POINTS, device=pixels.device) + 0.5) / POINTS
        down, right = torch.meshgrid(centres * fitted[0], centres * fitted[1], indexing="ij")
        kept, qualities = list[Tensor](), list[Tensor]()
        for points in torch.stack([right, down], dim=-1).reshape(1, -1, 1, 2).split(POINTS_AT_ONCE, dim=1):
            labels = torch.ones(points.shape[:3], dtype=torch.int64, device=points.device)
            output = self.model(input_points=points, input_labels=labels, image_embeddings=embeddings)
            masks, quality = output.pred_masks[0].flatten(0, 1).float(), output.iou_scores[0].flatten().float()
            inside = self._of_image(masks, fitted)
            stable = (inside > 1).sum((1, 2)) / (inside > -1).sum((1, 2)).clamp(min=1)
            good = (quality >= GOOD) & (stable >= STABLE) & (inside > 0).any(2).any(1)
            kept.append(masks[good])
            qualities.append(quality[good])
        masks, quality = torch.cat(kept), torch.cat(qualities)
        for number in without_repeats(boxes_of(self._of_image(masks, fitted) > 0), quality):
            region = whole(masks[number]) > 0
            if region.any():
                yield region

    def _of_image(self, masks: Tensor, fitted: tuple[int, int]) -> Tensor:
        """The part of masks `(n, h, w)` of the padded square that shows the image, whose size there is `fitted`."""
        rows, columns = (-(-side * masks.shape[-1] // self.side) for side in fitted)
        return masks[:, :rows, :columns]


def boxes_of(masks: Tensor) -> Tensor:
    """Left, top, right and bottom, the last two excluded, of masks `(n, h, w)` bool, none empty: `(n, 4)` float."""
    edges = []
    for line in (masks.any(dim=1), masks.any(dim=2)):
        length = line.shape[1]
        edges.append((line.float().argmax(dim=1), length - line.flip(1).float().argmax(dim=1)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1).float()


def without_repeats(boxes: Tensor, scores: Tensor) -> list[int]:
    """Positions of the boxes whose overlap (intersection over union) with each better one is at most `ALIKE`.

    >>> without_repeats(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [4, 4, 8, 8]]), torch.tensor([0.9, 0.95, 0.9]))
    [1, 2]
    """
    kept: list[int] = []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for number in scores.argsort(descending=True, stable=True).tolist():
        others = boxes[kept]
        sides = torch.minimum(boxes[number, 2:], others[:, 2:]) - torch.maximum(boxes[number, :2], others[:, :2])
        shared = sides.clamp(min=0).prod(dim=1)
        if not (shared > ALIKE * (area[number] + area[kept] - shared)).any():
            kept.append(number)
    return kept


def load_proposal_network(source: str, *, device: str | torch.device = "cpu") -> ProposalNetwork:
    """A network that proposes regions, from a folder in transformers' format or the hub; it runs no code of theirs.

    Args:
        source: the folder, or the id on the hub.
        device: where it goes.

    Raises:
        WeightsError: none there, or another kind of network.
    """
    location = str(expand_home(source)) if expand_home(source).is_dir() else source

    def kind_of(settings: dict[str, Any]) -> Any:
        kind = settings.get("model_type")
        if kind not in (*_QUERIES, *_POINTS):
            raise WeightsError(
                f"{source}: pseudo_masks.proposals.segmenter is a network of the model_type "
                f"{', '.join((*_QUERIES, *_POINTS))}; found {kind!r}"
            )
        return AutoModelForMaskGeneration if kind in _POINTS else AutoModelForUniversalSegmentation

    model, _ = load_pretrained(
        location,
        kind_of,
        complaint=f"{source}: no weights to be had for pseudo_masks.proposals.segmenter",
        advice="; name a folder in the format of transformers or a hub id, for instance facebook/sam2.1-hiera-small",
    )
    return ProposalNetwork(model.to(device), pixel_statistics(location, IMAGENET))
