"""Each path means the network that a person would think, with the settings and colours of its run."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from weakclip import load_predictor
from weakclip.config import load_config
from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import read_rgb
from weakclip.errors import ConfigError, DataError, WeightsError
from weakclip.inference.pseudo_masks import PseudoMaskSettings, pseudo_mask
from weakclip.inference.windows import predict_probs
from weakclip.modeling import load_weakclip, mixed_logits
from weakclip.prediction import PredictSettings, find_model
from weakclip.prediction.predictor import default_settings
from weakclip.report.chosen import ChosenNetwork, write_chosen
from weakclip.segmenters.deeplab import DeepLabResNet38
from weakclip.segmenters.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter, load_segmenter, save_segmenter

CPU = PredictSettings(device="cpu")


def test_a_run_means_the_chosen_network_or_the_only_one(trained_run: Path, tmp_path: Path, caplog) -> None:
    """Without a choice, WeakCLIP; a line says what is taken and why."""
    caplog.set_level(logging.INFO, "weakclip")
    assert find_model(trained_run) == find_model(trained_run / "2_train")
    assert "takes its WeakCLIP (the run has not compared its networks yet)" in caplog.text
    write_chosen(trained_run, ChosenNetwork(network="retrained", crf=None, why="better"))
    retrained = find_model(trained_run)
    assert "takes its retrained network (better)" in caplog.text
    assert (retrained.kind, retrained.path, retrained.run) == ("segmenter", trained_run / "4_retrain", trained_run)
    assert find_model(trained_run, network="weakclip").path == trained_run / "2_train"
    for path in (trained_run / "4_retrain", trained_run / "4_retrain/model.safetensors"):
        assert find_model(path) == retrained
    for path in (trained_run / "2_train", trained_run / "2_train/model.safetensors"):
        assert find_model(path).kind == "weakclip"
    moved = Path(shutil.copytree(trained_run / "4_retrain", tmp_path / "moved"))
    assert find_model(moved).run is None
    with pytest.raises(ConfigError, match="not a run folder, in which 'weakclip' could be chosen"):
        find_model(moved, network="weakclip")
    shutil.rmtree(trained_run / "4_retrain")
    assert find_model(trained_run).kind == "weakclip" and "(the only one there)" in caplog.text
    with pytest.raises(WeightsError, match="a run without a retrained network; run `weakclip retrain`"):
        find_model(trained_run, network="retrained")
    shutil.rmtree(trained_run / "2_train")
    with pytest.raises(WeightsError, match="a run without a trained network"):
        find_model(trained_run)
    with pytest.raises(WeightsError, match="no such file or folder"):
        find_model(tmp_path / "nothing")
    with pytest.raises(WeightsError, match="holds no network"):
        find_model(tmp_path)


def test_the_run_says_how_its_networks_are_used(trained_run: Path) -> None:
    retrained, weakclip = (default_settings(find_model(trained_run / part)) for part in ("4_retrain", "2_train"))
    assert retrained.inference.flip and retrained.crf is None
    assert not weakclip.inference.flip and weakclip.crf is not None


@pytest.mark.parametrize("crf", [True, False, None])
def test_the_dense_crf_is_used_where_the_evaluation_found_it_better(trained_run: Path, crf: bool | None) -> None:
    write_chosen(trained_run, ChosenNetwork(network="weakclip", crf=crf, why="x"))
    assert (default_settings(find_model(trained_run)).crf is None) == (crf is False)
    assert default_settings(find_model(trained_run, network="weakclip")).crf is not None


def test_a_retrained_weakclip_predicts_as_evaluate_says(trained_run: Path) -> None:
    shutil.rmtree(trained_run / "4_retrain")
    shutil.copytree(trained_run / "2_train", trained_run / "4_retrain")
    model = find_model(trained_run, network="retrained")
    assert (model.kind, model.network) == ("weakclip", "retrained") and default_settings(model).inference.flip


def test_the_colours_are_those_of_the_run(trained_run: Path, class_set: ClassSet, tmp_path: Path) -> None:
    assert load_predictor(trained_run).class_set == class_set
    alone = load_predictor(shutil.copytree(trained_run / "4_retrain", tmp_path / "moved"))
    assert alone.class_set == ClassSet(names=class_set.names)


def test_a_prediction_is_what_the_pipeline_makes(trained_run: Path, photos: Path) -> None:
    predictor = load_predictor(trained_run, network="retrained")
    image = read_rgb(photos / "d.jpg")
    network = load_segmenter(trained_run / "4_retrain")
    expected = predict_probs(network, image, predictor.settings.inference, device="cpu").argmax(axis=0)
    for given in (image, photos / "d.jpg", str(photos / "d.jpg")):
        made = predictor(given)
        assert np.array_equal(made.mask, expected) and made.mask.dtype == np.uint8
        assert made.confidence.shape == made.mask.shape and 1 / 3 <= made.confidence.min() <= 1


def test_a_weakclip_predicts_as_its_run_makes_pseudo_masks(trained_run: Path, photos: Path) -> None:
    """Match map, foreground and temperature too: with an image's labels, the mask is that of stage 3."""
    settings = yaml.safe_load((trained_run / "config.yaml").read_text())
    how = {"match_share": 0.5, "keep_foreground": True, "balance": 0.5, "temperature": 3.0}
    settings["pseudo_masks"] |= how
    (trained_run / "config.yaml").write_text(yaml.safe_dump(settings))
    predictor, image = load_predictor(trained_run), read_rgb(photos / "a.jpg")
    assert {name: getattr(predictor.settings, name) for name in how} == how
    model = load_weakclip(trained_run / "2_train")
    section = load_config(trained_run / "config.yaml").pseudo_masks
    probs = predict_probs(lambda images: mixed_logits(model(images), 0.5), image, section.inference, device="cpu")
    made = predictor(image, ["cat"])
    mask, confidence = pseudo_mask(probs, Sample("", image, (1,)), section)
    assert np.array_equal(made.mask, mask) and np.allclose(made.confidence, confidence)
    plain = load_predictor(trained_run, settings=replace(predictor.settings, match_share=0.0))
    assert not np.allclose(plain.probabilities([image])[0], predictor.probabilities([image])[0], atol=1e-4)


def test_labels_rule_the_other_classes_out(trained_run: Path, photos: Path) -> None:
    predictor = load_predictor(trained_run / "2_train")
    image = read_rgb(photos / "a.jpg")
    (probs,) = predictor.probabilities([image])
    assert set(np.unique(predictor(image, ["dog"]).mask)) <= {0, 2}
    assert not predictor(image, []).mask.any()
    settings = PseudoMaskSettings(crf=predictor.settings.crf)
    assert np.array_equal(predictor(image, ["cat"]).mask, pseudo_mask(probs, Sample("", image, (1,)), settings)[0])
    with pytest.raises(DataError, match="unknown class 'lion'"):
        predictor(image, ["lion"])


def test_images_of_one_size_may_go_together(trained_run: Path, photos: Path) -> None:
    """In one batch or one by one, windows and flips and all: the same probabilities."""
    predictor = load_predictor(trained_run)
    images = [read_rgb(photos / name) for name in ("a.jpg", "a.png", "b/a.jpg")]
    for together, image in zip(predictor.probabilities(images), images, strict=True):
        (alone,) = predictor.probabilities([image])
        assert np.allclose(together, alone, atol=1e-5)


def test_our_deeplab_and_released_checkpoints_are_networks_too(
    shared_fixtures: Path, photos: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    deeplab = DeepLabResNet38({0: "background", 1: "cat"}, widths=(4,) * 7)
    save_segmenter(Segmenter(deeplab, pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD), tmp_path / "deeplab")
    predictor = load_predictor(tmp_path / "deeplab", settings=CPU)
    assert predictor.class_set.names == ("background", "cat")
    assert predictor(photos / "a.jpg").mask.shape == (33, 47)
    released = load_predictor(shared_fixtures / "weakclip" / "official.pth", settings=CPU)
    made = released(photos / "a.jpg", ["cat"])
    assert made.mask.shape == (33, 47)
    assert set(np.unique(made.mask)) <= {0, released.class_set.index("cat")}


def test_a_new_network_has_another_fingerprint(trained_run: Path, class_set: ClassSet) -> None:
    from weakclip.segmenters.segmenter import build_segmenter

    before = find_model(trained_run / "4_retrain").fingerprint
    (trained_run / "4_retrain/log.jsonl").write_text("{}\n")
    (trained_run / "4_retrain/checkpoint.safetensors").write_text("of the training")
    assert find_model(trained_run / "4_retrain").fingerprint == before
    save_segmenter(build_segmenter("small", class_set), trained_run / "4_retrain")
    assert find_model(trained_run / "4_retrain").fingerprint != before
