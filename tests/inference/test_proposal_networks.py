"""Laws of networks that propose regions: known masks come back at the image's size, whatever its sides are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import weakclip
from weakclip.config import parse_config
from weakclip.errors import WeightsError
from weakclip.inference import proposal_networks
from weakclip.inference.proposal_files import ProposalFiles
from weakclip.inference.proposal_networks import IMAGENET, ProposalNetwork, boxes_of, load_proposal_network
from weakclip.pipeline import proposal_files
from weakclip.pipeline.context import open_run

SIDE = 64
IMAGE = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)


def tiny_network(kind: str) -> Any:
    """A network with random weights on images of 64 x 64."""
    torch.manual_seed(0)
    wide = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "eomt":
        more = {
            "mlp_ratio": 2,
            "image_size": SIDE,
            "patch_size": 8,
            "num_blocks": 1,
            "num_queries": 4,
            "num_upscale_blocks": 1,
        }
        return transformers.EomtForUniversalSegmentation(transformers.EomtConfig(**wide, **more, num_register_tokens=0))
    prompt = {"hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder |= {"iou_head_hidden_dim": 16, "iou_head_depth": 2}
    vision = {**wide, "image_size": SIDE, "patch_size": 8, "output_channels": 16, "mlp_dim": 32, "window_size": 4}
    vision |= {"global_attn_indexes": [1], "num_pos_feats": 8}
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    return transformers.SamModel(config)


def squares(points: Tensor) -> Tensor:
    """What a perfect SAM says: the logits `(1, n, 3, 16, 16)` of the left or the right half, after each point."""
    right = (points[0, :, 0, 0] >= SIDE / 2)[:, None, None, None]
    columns = torch.arange(16) >= 8
    return torch.where(columns == right, 9.0, -9.0).expand(-1, 3, 16, 16)[None]


class Halves(torch.nn.Module):
    """A SAM that knows two halves of the square, or of a wide image, and is sure of one of three masks."""

    device = torch.device("cpu")

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.prompt_encoder = torch.nn.Identity()
        self.config = SimpleNamespace(model_type=kind, prompt_encoder_config=SimpleNamespace(image_size=SIDE))
        self.asked: list[Tensor] = []

    def get_image_embeddings(self, pixels: Tensor) -> Tensor:
        assert pixels.shape == (1, 3, SIDE, SIDE)
        return pixels

    def forward(self, input_points: Tensor, input_labels: Tensor, image_embeddings: Tensor) -> Any:
        self.asked.append(input_points)
        count = input_points.shape[1]
        return SimpleNamespace(
            pred_masks=squares(input_points), iou_scores=torch.tensor([0.9, 0.99, 0.5]).repeat(1, count, 1)
        )


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_the_masks_of_a_grid_of_points_come_once_each(kind: str) -> None:
    model = Halves(kind)
    left, right = ProposalNetwork(model, IMAGENET).regions(IMAGE)
    expected = np.arange(50) < 25
    assert left.shape == (30, 50) and (left == expected).all() != (right == expected).all()
    assert ((left | right) & ~(left & right)).all()
    points = torch.cat(model.asked, dim=1)[0, :, 0]
    bottom = SIDE if kind == "sam2" else 38  # SAM keeps the aspect: 64 x 38, padded below
    assert len(points) == 32 * 32 and points.min() > 0 and points[:, 1].max() == pytest.approx(bottom * 31.5 / 32)


def test_boxes_are_of_the_image_and_not_of_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two masks share below a wide image does not make them the same; one that lies there only is none."""
    halves = squares

    def with_padding(points: Tensor) -> Tensor:
        masks = halves(points).clone()
        masks[:, :, 2] = -9.0
        masks[..., 10:, :] = 9.0  # the image has 10 of the 16 rows
        return masks

    class Sure(Halves):
        def forward(self, input_points: Tensor, input_labels: Tensor, image_embeddings: Tensor) -> Any:
            output = super().forward(input_points, input_labels, image_embeddings)
            output.iou_scores[..., 2] = 0.95
            return output

    monkeypatch.setitem(globals(), "squares", with_padding)
    left, right = ProposalNetwork(Sure("sam"), IMAGENET).regions(IMAGE)
    assert (left ^ right).all()


def test_queries_that_others_cover_are_left_out() -> None:
    class Queries(torch.nn.Module):
        device, config = torch.device("cpu"), SimpleNamespace(model_type="eomt", image_size=SIDE)

        def forward(self, pixel_values: Tensor) -> Any:
            masks = torch.full((1, 4, 16, 16), -9.0)
            masks[0, 0, :, :8] = masks[0, 1, :, 8:] = masks[0, 2, :, 2:6] = masks[0, 3] = 9.0
            scores = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 4, 0], [0, 0, 9]])  # the last: no object
            return SimpleNamespace(class_queries_logits=scores[None], masks_queries_logits=masks)

    left, right = ProposalNetwork(Queries(), IMAGENET).regions(IMAGE)
    assert (left == (np.arange(50) < 25)).all() and (right == ~left).all()


@pytest.mark.parametrize("kind", ["eomt", "sam"])
def test_a_folder_is_loaded(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "eomt":
        pytest.importorskip("scipy", reason="transformers wants scipy for EoMT")
    for name in ("SURE", "GOOD", "STABLE", "KEPT"):
        monkeypatch.setattr(proposal_networks, name, -9.0)
    tiny_network(kind).save_pretrained(tmp_path)
    network = load_proposal_network(str(tmp_path))
    assert network.side == SIDE
    for region in network.regions(IMAGE):
        assert region.shape == (30, 50) and region.dtype == bool and region.any()
    assert network.regions(IMAGE)


def test_what_proposes_nothing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match=r"proposals\.segmenter is a network of the model_type eomt, .*found 'bert'"):
        load_proposal_network(str(tmp_path))
    with pytest.raises(WeightsError, match="no weights to be had") as caught:
        load_proposal_network(str(tmp_path / "gone"))
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: Any, **settings: Any) -> Any:
        raise ImportError("\nEomtLoss requires the scipy library but it was not found. You can install it:\n`pip`")

    (tmp_path / "config.json").write_text('{"model_type": "eomt"}')
    monkeypatch.setattr(transformers.AutoModelForUniversalSegmentation, "from_pretrained", missing)
    with pytest.raises(WeightsError, match="needs another package: EomtLoss requires the scipy library") as caught:
        load_proposal_network(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_boxes_are_tight() -> None:
    mask = torch.zeros(2, 6, 7, dtype=torch.bool)
    mask[0, 2:4, 1:6] = mask[1, 5, 6] = True
    assert boxes_of(mask).tolist() == [[1, 2, 6, 4], [6, 5, 7, 6]]


def test_a_run_has_them_drawn_once(
    tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mask of a run whose regions are all the left half, and whose classes need no agreement, is of one class."""
    drawn: list[int] = []

    class Network:
        def regions(self, image: np.ndarray) -> list[np.ndarray]:
            drawn.append(len(drawn))
            return [np.broadcast_to(np.arange(image.shape[1]) < image.shape[1] // 2, image.shape[:2])]

    monkeypatch.setattr(proposal_files, "load_proposal_network", lambda source, device: Network())
    settings = tiny_settings() | {"retrain": {"model": None}}
    settings["pseudo_masks"] |= {"proposals": {"segmenter": "facebook/sam2.1-hiera-small", "agreement": 0.5}}
    config = parse_config(settings, origin="test")
    result = weakclip.run_pipeline(config, tmp_path / "run")
    files = sorted((tmp_path / "run/proposals").rglob("*.json"))
    assert len(files) == len(drawn) == len(list((tmp_path / "run/3_pseudo_masks/masks").rglob("*.png"))) > 0
    assert result.scores
    files[0].unlink()
    context = open_run(tmp_path / "run")
    for _ in range(2):
        made = proposal_files.with_proposals(context, config.pseudo_masks)
        assert made.proposals is not None and made.proposals.segmenter is None
        assert ProposalFiles(str(made.proposals.folder)).regions(context.train.names[0], context.train.size(0))
    assert len(drawn) == len(files) + 1
