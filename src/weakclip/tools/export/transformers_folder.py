"""A retrained network as a folder of transformers, proven by loading it as others will."""

from __future__ import annotations

from pathlib import Path

import torch

from weakclip.errors import RunError, WeightsError
from weakclip.prediction.models import find_model
from weakclip.report.chosen import Network
from weakclip.segmenters.deeplab import is_deeplab
from weakclip.segmenters.segmenter import load_segmenter, save_segmenter
from weakclip.store.files import writing


def export_transformers(model: Path | str, out: Path | str, *, network: Network | None = None) -> tuple[str, ...]:
    """Write a network for `AutoModelForSemanticSegmentation.from_pretrained` and `AutoImageProcessor.from_pretrained`.

    `config.json` has the class names in `id2label` and `label2id`; `preprocessor_config.json` the pixel statistics. No
    class of this package is needed to load either. Before transformers 5.22 its image processors need torchvision.

    Args:
        model: a run, its `4_retrain`, or any folder of a segmentation network.
        out: a new or empty folder.
        network: of a run, another network than the one that its evaluation chose.

    Returns:
        The class names.

    Raises:
        WeightsError: no such network, a WeakCLIP, or our own DeepLab, which transformers does not know.
        RunError: a folder that is not empty.
        StorageError: it cannot be written.
    """
    from transformers import AutoModelForSemanticSegmentation

    source, out = find_model(model, network=network), Path(out)
    if source.kind != "segmenter" or is_deeplab(source.path):
        kind = "DeepLab with a ResNet38" if source.kind == "segmenter" else "WeakCLIP"
        raise WeightsError(
            f"{source.path}: a {kind}, which transformers does not know; name another network (of a run with "
            "--network retrained), or export ONNX"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is not empty; choose a new folder")
    segmenter = load_segmenter(source.path, step=source.step)
    with writing(out):
        save_segmenter(segmenter, out)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(out, local_files_only=True).state_dict()
    for name, value in segmenter.model.state_dict().items():
        if not torch.equal(value, loaded[name]):
            raise RunError(f"{out}: {name} is not what was written; write it again")
    return segmenter.class_names
