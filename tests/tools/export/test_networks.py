"""A network that was exported computes what it computed before."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
import yaml
from by_path import load_script
from packaging.version import Version
from torch import nn

from weakclip.clip import FrozenCLIP
from weakclip.datasets.classes import ClassSet
from weakclip.errors import RunError, WeightsError
from weakclip.modeling import build_weakclip, save_weakclip
from weakclip.segmenters.deeplab import DeepLabResNet38
from weakclip.segmenters.segmenter import Segmenter, build_segmenter, load_segmenter, save_segmenter
from weakclip.tools.export import export_onnx, export_transformers, onnx_graph
from weakclip.tools.export.onnx_graph import bin_averages

CLASSES = ClassSet.from_foreground(["cat", "dög"])
STATISTICS = {"pixel_mean": (0.4, 0.5, 0.6), "pixel_std": (0.2, 0.3, 0.4)}


def segformer() -> Segmenter:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    numbers = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    labels = dict(enumerate(CLASSES.names))
    config = SegformerConfig(
        **numbers, decoder_hidden_size=8, id2label=labels, label2id={name: index for index, name in labels.items()}
    )
    return Segmenter(SegformerForSemanticSegmentation(config), **STATISTICS)


def deeplab() -> Segmenter:
    return Segmenter(DeepLabResNet38(dict(enumerate(CLASSES.names)), widths=(4,) * 7), **STATISTICS)


def small() -> Segmenter:
    return build_segmenter("small", CLASSES)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a small network."""
    torch.manual_seed(0)
    save_segmenter(small(), tmp_path / "run/4_retrain")
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump({"data": {"dataset": "scenes"}}))
    return tmp_path / "run"


@pytest.mark.parametrize("size", [(7, 11), (2, 2), (1, 1), (3, 5), (16, 9)])
@pytest.mark.parametrize("bins", [1, 2, 3, 4, (2, 5), (None, 3)])
def test_bins_average_as_adaptive_pooling_does(size: tuple[int, int], bins: int | tuple[int | None, int]) -> None:
    features = torch.randn(2, 3, *size)
    assert torch.allclose(bin_averages(features, bins), nn.AdaptiveAvgPool2d(bins)(features), atol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(small, marks=pytest.mark.whole),
        *(pytest.param(net, marks=pytest.mark.slow) for net in (segformer, deeplab)),
    ],
)
def test_onnx_gives_the_logits_of_pytorch_at_any_size(build: Callable[[], Segmenter], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    save_segmenter(build(), tmp_path / "net")
    made = export_onnx(tmp_path / "net", tmp_path / "net.onnx")
    assert made.difference <= onnx_graph.TOLERANCE
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("images", "tensor(uint8)", ["batch", 3, "height", "width"])
    assert (logits.name, logits.shape) == ("logits", ["batch", 3, "height", "width"])
    network = load_segmenter(tmp_path / "net")
    for batch, height, width in ((1, 33, 65), (3, 64, 47)):
        images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)
        with torch.no_grad():
            expected = F.interpolate(network(images), size=(height, width), mode="bilinear", align_corners=False)
        (found,) = session.run(None, {"images": images.numpy()})
        assert np.allclose(found, expected.numpy(), atol=1e-3 * float(expected.abs().max()))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(CLASSES.names)
    assert json.loads(facts["class_colors"]) == [list(color) for color in CLASSES.colors]


@pytest.mark.slow
def test_onnx_gives_the_logits_of_a_weakclip_at_any_size(
    make_tiny_clip: Callable[..., FrozenCLIP], clip_folder: Path, tmp_path: Path
) -> None:
    """Its classes are constants of the graph, and the text tower is not in it."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    clip = make_tiny_clip()
    clip.source = str(clip_folder)
    model = build_weakclip(clip, CLASSES, co_attention_width=8, decoder_channels=8).eval()
    save_weakclip(model, tmp_path / "net")
    assert export_onnx(tmp_path / "net", tmp_path / "net.onnx").difference <= onnx_graph.TOLERANCE
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for batch, height, width in ((1, 33, 65), (3, 64, 47), (2, 16, 90), (1, 40, 40)):
        images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)
        with torch.no_grad():
            expected = F.interpolate(model(images).logits, size=(height, width), mode="bilinear", align_corners=False)
        (found,) = session.run(None, {"images": images.numpy()})
        assert np.allclose(found, expected.numpy(), atol=1e-3 * float(expected.abs().max())), (batch, height, width)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(CLASSES.names)
    assert "sides of 16 pixels or more" in facts["images"]
    weights = sum(np.prod(each.dims) for each in onnx.load(tmp_path / "net.onnx").graph.initializer)
    tower = sum(value.numel() for value in clip.model.text_model.parameters())
    assert weights < sum(value.numel() for value in model.parameters()) - 0.9 * tower


@pytest.mark.slow
def test_onnx_of_a_weakclip_on_an_encoder_of_ones_own(tmp_path: Path) -> None:
    """The convolutions of the example: maps of unequal size, which a graph of any size resizes."""
    pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
    encoder = load_script("examples/own_encoder.py").ConvEncoder(CLASSES.names)
    save_weakclip(build_weakclip(encoder, CLASSES, co_attention_width=8, decoder_channels=8), tmp_path / "net")
    with pytest.raises(WeightsError, match="--clip python:MODULE:FUNCTION"):
        export_onnx(tmp_path / "net", tmp_path / "net.onnx")
    made = export_onnx(tmp_path / "net", tmp_path / "net.onnx", clip=encoder)
    assert made.difference <= onnx_graph.TOLERANCE


def test_a_graph_that_differs_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of another network, in the place of the real one; then one for a single size."""
    onnx = pytest.importorskip("onnx")

    def constant(size: tuple[int, int]) -> object:
        given = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["b", 3, "h", "w"])
        result = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
        value = onnx.numpy_helper.from_array(np.ones((2, 3, *size), np.float32))
        node = onnx.helper.make_node("Constant", [], ["logits"], value=value)
        graph = onnx.helper.make_graph([node], "g", [given], [result])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)

    for size in ((97, 131), (5, 5)):
        monkeypatch.setattr(onnx_graph, "_graph", lambda network, source, size=size: constant(size))
        with pytest.raises(RunError, match=r"its ONNX graph differs from PyTorch by .* on images of 131x97"):
            export_onnx(run, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_an_error_without_a_message_is_named_by_its_class(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(RunError, match=r"cannot export this network to ONNX \(MemoryError\)"):
        export_onnx(run, tmp_path / "net.onnx")


def test_without_the_extra_it_says_how_to_get_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(RunError, match=r"needs onnxscript; pip install weakclip\[onnx\]"):
        export_onnx(run, tmp_path / "net.onnx")


def test_transformers_loads_the_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForSemanticSegmentation

    torch.manual_seed(0)
    save_segmenter(segformer(), tmp_path / "net")
    assert export_transformers(tmp_path / "net", tmp_path / "out") == CLASSES.names
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
    assert model.config.id2label == dict(enumerate(CLASSES.names))
    assert model.config.label2id == {name: index for index, name in enumerate(CLASSES.names)}
    statistics = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(statistics[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    pixels = torch.randint(256, (1, 3, 33, 47))
    network = load_segmenter(tmp_path / "net")
    with torch.no_grad():
        expected = network(pixels.to(torch.uint8))
        assert torch.allclose(model((pixels / 255 - mean) / std).logits, expected, atol=1e-5)


@pytest.mark.skipif(Version(transformers.__version__) < Version("5.22"), reason="image processors need torchvision")
def test_transformers_loads_the_pixel_statistics(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    save_segmenter(segformer(), tmp_path / "net")
    export_transformers(tmp_path / "net", tmp_path / "out")
    image = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "out")(image, return_tensors="pt")
    network = load_segmenter(tmp_path / "net")
    with torch.no_grad():
        expected = network(torch.from_numpy(image).permute(2, 0, 1)[None])
        assert torch.allclose(network.model(**pixels).logits, expected, atol=1e-5)


def test_the_commands(call: Callable[..., int], run: Path, tmp_path: Path, capsys) -> None:
    assert call("export", "transformers", run, "--out", tmp_path / "net") == 0
    assert "3 classes: background, cat, dög" in capsys.readouterr().out
    assert call("export", "transformers", run, "--out", tmp_path / "net") == 2
    assert "is not empty" in capsys.readouterr().err
    assert call("export", "onnx", tmp_path / "none", "--out", tmp_path / "net.onnx") == 2


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    save_segmenter(deeplab(), tmp_path / "deeplab")
    with pytest.raises(WeightsError, match="a DeepLab with a ResNet38, which transformers does not know"):
        export_transformers(tmp_path / "deeplab", tmp_path / "out")
    (tmp_path / "weakclip").mkdir()
    (tmp_path / "weakclip/weakclip.json").write_text("{}")
    with pytest.raises(WeightsError, match="a WeakCLIP, which transformers does not know"):
        export_transformers(tmp_path / "weakclip", tmp_path / "out")
