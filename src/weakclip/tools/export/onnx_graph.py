"""A trained network as an ONNX graph: from uint8 pixels of any size to logits at that size.

The normalisation of the pixels and the resizing of the logits are in the graph, so that nothing need be known to use
it but what its metadata say.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip import __version__
from weakclip.clip import Encoder
from weakclip.datasets.classes import ClassSet
from weakclip.errors import RunError, first_line
from weakclip.modeling import load_weakclip
from weakclip.prediction.models import ModelSource, find_model
from weakclip.prediction.predictor import default_settings
from weakclip.report.chosen import Network
from weakclip.segmenters.segmenter import load_segmenter
from weakclip.store.files import atomic_write
from weakclip.tools.export.baked_weakclip import BakedWeakCLIP

INPUT, OUTPUT = "images", "logits"
EXTRA = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3
"""Largest difference of a logit from PyTorch's, as a share of the largest logit."""

CHECKED_SIZES = ((2, 97, 131), (1, 161, 75))
"""Batch, height and width of what the graph is checked on: odd, and neither is the size that it was traced with."""

_TRACED_SIZE = (2, 128, 160)
_AXES = {0: "batch", 2: "height", 3: "width"}


@dataclass(frozen=True)
class OnnxExport:
    """The result of an export.

    Args:
        path: the file.
        opset: version of ONNX's operators.
        difference: the largest difference from PyTorch found, as a share of the largest logit.
    """

    path: Path
    opset: int
    difference: float


class PixelsToLogits(nn.Module):
    """The computation of the graph.

    Args:
        network: images to logits of any resolution; a copy is taken.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        for module in self.network.modules():
            if isinstance(module, nn.AdaptiveAvgPool2d):  # the module stays: its owner may hold it in a list, too
                module.forward = functools.partial(bin_averages, output_size=module.output_size)  # type: ignore[method-assign]

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K, H, W)` float32 of `(B, 3, H, W)` uint8 RGB, bilinearly resized to the images' size."""
        logits = self.network(images)
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


def bin_averages(features: Tensor, output_size: Any) -> Tensor:
    """`nn.AdaptiveAvgPool2d` as two matrix products, whose matrices follow from the size at hand.

    torch's exporter unrolls the pooling for the size that it sees, and the graph is then wrong at others.

    Args:
        features: `(B, C, H, W)`.
        output_size: bins along the rows and columns, one number or two; None keeps a side.
    """
    rows, columns = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    if rows is not None:
        features = bin_matrix(features.shape[2], rows, features) @ features
    if columns is not None:
        features = features @ bin_matrix(features.shape[3], columns, features).T
    return features


def bin_matrix(length: int, bins: int, like: Tensor) -> Tensor:
    """`(bins, length)`: row i averages the positions from ⌊i·length/bins⌋ up to ⌈(i+1)·length/bins⌉.

    Args:
        length: of the side.
        bins: how many.
        like: a tensor of the wanted type and device.
    """
    position = torch.arange(length, device=like.device)
    index = torch.arange(bins, device=like.device)[:, None]
    start, end = index * length // bins, ((index + 1) * length + bins - 1) // bins
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def export_onnx(
    model: Path | str, out: Path | str, *, network: Network | None = None, clip: Encoder | None = None
) -> OnnxExport:
    """Write a network as ONNX, after a comparison with PyTorch at several sizes.

    Input `images`: `(batch, 3, height, width)` uint8 RGB, 0…255, any batch and size (for a WeakCLIP, sides of two
    patches or more). Output `logits`: `(batch, K, height, width)` float32; the largest along the second axis is the
    mask. The metadata hold `class_names` and `class_colors` (JSON lists), and what input and output are. The classes of
    a WeakCLIP are constants of the graph.

    Args:
        model: a run, its `4_retrain` or `2_train`, any folder of a segmentation network, or a released WeakCLIP.
        network: of a run, another network than the one that its evaluation chose.
        clip: the encoder of a WeakCLIP that was trained with one of the user's own.
        out: the `.onnx` file; it appears when the comparison has passed, or not at all.

    Raises:
        RunError: the packages of the extra `onnx` are missing, or the graph differs from PyTorch.
        StorageError: the place cannot be written.
        WeightsError: no such network.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(f"export to ONNX needs {', '.join(missing)}; pip install weakclip[onnx]")
    source, out = find_model(model, network=network), Path(out)
    trained, class_set = _loaded(source, clip)
    graph = _graph(PixelsToLogits(trained).eval(), source.path)
    _describe(graph, class_set, trained)
    content = graph.SerializeToString()
    difference = _largest_difference(content, trained, source.path)
    with atomic_write(out) as file:
        file.write(content)
    return OnnxExport(out, graph.opset_import[0].version, difference)


def _loaded(source: ModelSource, clip: Encoder | None) -> tuple[nn.Module, ClassSet]:
    """The network, in evaluation mode, and its classes."""
    if source.kind == "segmenter":
        segmenter = load_segmenter(source.path, step=source.step)
        return segmenter, source.class_set(segmenter.class_names)
    vocabulary = source.config.clip.vocabulary if source.config else None
    model = load_weakclip(source.path, vocabulary=vocabulary, clip=clip, step=source.step)
    return BakedWeakCLIP(model, match_share=default_settings(source).match_share), model.class_set


def _graph(network: PixelsToLogits, source: Path) -> Any:
    """The ONNX model of a network, its free axes named."""
    inner = network.network
    batch, height, width = inner.traced_size if isinstance(inner, BakedWeakCLIP) else _TRACED_SIZE
    example = torch.zeros(batch, 3, height, width, dtype=torch.uint8)
    free = {INPUT: dict.fromkeys(_AXES, torch.export.Dim.DYNAMIC)}
    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=free,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds; the reader needs one line
        raise RunError(f"{source}: PyTorch cannot export this network to ONNX ({first_line(error)})") from None
    assert program is not None
    model = program.model_proto
    (images,) = model.graph.input
    names = {images.type.tensor_type.shape.dim[axis].dim_param: name for axis, name in _AXES.items()}
    del model.graph.value_info[:]  # shapes in between, in the exporter's own names of the axes
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in names:
                dimension.dim_param = names[dimension.dim_param]
    return model


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """No word on the operators of torchvision, which is not needed, and on what will be deprecated inside torch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _describe(graph: Any, class_set: ClassSet, network: nn.Module) -> None:
    least = f"; sides of {network.smallest_side} pixels or more" if isinstance(network, BakedWeakCLIP) else ""
    facts = {
        "class_names": json.dumps(class_set.names, ensure_ascii=False),
        "class_colors": json.dumps(class_set.colors),
        INPUT: f"(batch, 3, height, width) uint8 RGB, 0 to 255; normalised inside{least}",
        OUTPUT: "(batch, classes, height, width) float32; argmax along axis 1 is the mask",
    }
    graph.producer_name, graph.producer_version = "weakclip", __version__
    for key, value in facts.items():
        graph.metadata_props.add(key=key, value=value)


def _largest_difference(content: bytes, network: nn.Module, source: Path) -> float:
    """Of the graph from the network as it was loaded, on noise."""
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    sizes = (*CHECKED_SIZES, *(network.more_sizes if isinstance(network, BakedWeakCLIP) else ()))
    for batch, height, width in sizes:
        images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            expected = F.interpolate(network(images), size=(height, width), mode="bilinear", align_corners=False)
        try:
            (found,) = session.run([OUTPUT], {INPUT: images.numpy()})
        except Exception as error:  # onnxruntime has a kind for each of its codes
            reason = first_line(error)
            raise RunError(f"{source}: its ONNX graph fails on images of {width}x{height} ({reason})") from None
        same = tuple(found.shape) == tuple(expected.shape)
        difference = float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max()) if same else 1.0
        if not difference <= TOLERANCE:
            raise RunError(
                f"{source}: its ONNX graph differs from PyTorch by {difference:.1g} of the largest logit on images of "
                f"{width}x{height}; expected {TOLERANCE:g} at most; nothing is written"
            )
        largest = max(largest, difference)
    return largest
