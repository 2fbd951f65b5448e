"""The benchmark's saliency maps: a network of bright pixels finds them, and the maps are of the images' sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from by_path import load_script

from weakclip.datasets.images import read_mask, write_png

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_what_the_network_finds_is_written_once(tmp_path: Path) -> None:
    kind, make = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("ReduceMean", ["pixels"], ["found"], axes=[1], keepdims=1)]
    graph = onnx.helper.make_graph(
        nodes, "bright", [make("pixels", kind, [1, 3, 64, 64])], [make("found", kind, [1, 1, 64, 64])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "bright.onnx")
    image = np.zeros((30, 50, 3), dtype=np.uint8)
    image[10:20, 10:40] = 200
    write_png(tmp_path / "images/a.png", image)
    write_png(tmp_path / "images/deep/dark.png", np.zeros_like(image))  # as where each class has a folder
    arguments = [f"--{name}={tmp_path / path}" for name, path in (("network", "bright.onnx"), ("images", "images"))]
    arguments += ["--side", "64", "--out", str(tmp_path / "maps")]
    benchmark = load_script("benchmarks/saliency_maps.py")
    benchmark.main(arguments)
    found = read_mask(tmp_path / "maps/a.png")
    assert found.shape == (30, 50) and np.mean((found > 127) != (image[..., 0] > 0)) < 0.05
    assert found.max() > 200 and found.min() == 0 and not read_mask(tmp_path / "maps/deep/dark.png").any()
    before = (tmp_path / "maps/a.png").stat().st_mtime_ns
    benchmark.main(arguments)
    assert (tmp_path / "maps/a.png").stat().st_mtime_ns == before
