"""The search for a dense CRF: it beats a bad one, says what it tunes on, repeats itself, and survives a kill."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from folders import bytes_in

import weakclip.study.crf as study_module
from weakclip.clip import FrozenCLIP, load_clip
from weakclip.config import RunConfig, load_config, load_crf
from weakclip.crf import COCO_CRF, VOC_CRF, CRFParams
from weakclip.datasets import FolderDataset, ScenesDataset
from weakclip.datasets.images import write_mask
from weakclip.errors import ConfigError, DataError, RunError, WeightsError
from weakclip.inference.label_probabilities import label_probabilities, with_seeds
from weakclip.inference.pseudo_masks import pseudo_mask
from weakclip.inference.windows import predict_probs
from weakclip.modeling import build_weakclip, mixed_logits, save_weakclip
from weakclip.study import CRFStudy, study_crf
from weakclip.study.crf import crf_candidates, score_crfs
from weakclip.study.halving import Rung
from weakclip.study.pages import best_yaml, chart, table
from weakclip.study.probabilities import ProbabilityFolder

OVERRIDES = ["data.train_limit=6", "data.scene_size=64"]
BAD_CRF = "pseudo_masks.crf={kernels: [{sxy: 30, weight: 60}], iterations: 2}"
SCENES = ScenesDataset("train", size=64, count=6)


def noisy_truth(index: int, num_classes: int = 13) -> np.ndarray:
    """The true mask as probabilities, with noise that a dense CRF can remove."""
    noise = np.random.default_rng(index).gumbel(size=(num_classes, 64, 64)) * 0.7
    logits = noise + 1.5 * (np.arange(num_classes)[:, None, None] == SCENES.mask(index))
    probs = np.exp(logits - logits.max(axis=0))
    return (probs / probs.sum(axis=0)).astype(np.float32)


@pytest.fixture(scope="session")
def probs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probs")
    for index, name in enumerate(SCENES.names):
        np.save(folder / f"{name}.npy", noisy_truth(index))
    return folder


@pytest.fixture
def config() -> RunConfig:
    return load_config("demo", [*OVERRIDES, BAD_CRF])


def test_scores_are_those_of_the_pseudo_masks(config: RunConfig, probs: Path) -> None:
    from weakclip.inference.metrics import ConfusionMatrix

    scores = score_crfs([VOC_CRF, COCO_CRF], ProbabilityFolder(probs, SCENES), range(3), config.pseudo_masks)
    settings = dataclasses.replace(load_config("demo").pseudo_masks, crf=VOC_CRF)
    matrix = ConfusionMatrix(13)
    for index in range(3):
        matrix.update(pseudo_mask(noisy_truth(index), SCENES[index], settings)[0], SCENES.mask(index))
    assert scores[0] == matrix.mean_iou() != scores[1]


def test_study_beats_a_bad_crf_and_writes_its_pages(config: RunConfig, probs: Path, tmp_path: Path) -> None:
    study = study_crf(config, tmp_path / "study", probs=probs, candidates=10)
    best, last = study.standing()[0], study.rungs[-1]
    assert last.images == 6
    assert last.scores[best] > last.scores[0] + 0.05
    assert sorted(study.standing()) == list(range(10))
    record = json.loads((tmp_path / "study/study.json").read_text())
    assert record["tuning_set"] == {"split": "train", "images": 6}
    assert [each["origin"] for each in record["candidates"]][:5] == ["config", "none", "voc", "coco", "loss"]
    assert [len(rung["mean_iou"]) for rung in record["rungs"]] == [len(rung.scores) for rung in study.rungs]
    assert load_crf(tmp_path / "study/best.yaml") == study.candidates[best].params
    text = (tmp_path / "study/table.md").read_text()
    assert "tuning set" in text
    assert text.count("| random |") == 5
    tree = ElementTree.parse(tmp_path / "study/study.svg")
    circles = [node for node in tree.iter() if node.tag.endswith("circle")]
    assert len(circles) == sum(len(rung.scores) for rung in study.rungs)
    assert set(bytes_in(tmp_path / "study", "*")) == {"study.json", "table.md", "study.svg", "best.yaml"}


def test_same_seed_same_files_and_another_seed_other_kernels(config: RunConfig, probs: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        study_crf(config, tmp_path / name, probs=probs, candidates=7)
    assert bytes_in(tmp_path / "a", "*") == bytes_in(tmp_path / "b", "*")
    first, second = (crf_candidates(None, 30, np.random.default_rng(seed)) for seed in (0, 1))
    assert {each.params for each in first} & {each.params for each in second} == {each.params for each in first[:4]}
    assert len({each.params for each in first}) == 30
    own = crf_candidates(CRFParams(kernels=(), iterations=4), 9, np.random.default_rng(0))
    assert {each.params.iterations for each in own} == {4}


def test_killed_study_goes_on_after_its_last_rung(
    config: RunConfig, probs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_crf(config, tmp_path / "whole", probs=probs, candidates=10)
    asked: list[int] = []

    def counted(crfs: list[CRFParams], *rest: object) -> list[float]:
        asked.append(len(crfs))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return score_crfs(crfs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(study_module, "score_crfs", counted)
    with pytest.raises(KeyboardInterrupt):
        study_crf(config, tmp_path / "study", probs=probs, candidates=10)
    assert set(bytes_in(tmp_path / "study", "*")) == {"study.json"}
    study_crf(config, tmp_path / "study", probs=probs, candidates=10)
    first, second, again, last = asked
    assert first == 10 > second == again > last
    assert bytes_in(tmp_path / "study", "*") == bytes_in(tmp_path / "whole", "*")


def test_other_settings_and_foreign_folders_are_refused(config: RunConfig, probs: Path, tmp_path: Path) -> None:
    study_crf(config, tmp_path / "study", probs=probs, candidates=5)
    with pytest.raises(RunError, match=r"something else \(candidates: 5 → 7\); choose a new folder"):
        study_crf(config, tmp_path / "study", probs=probs, candidates=7)
    (tmp_path / "study/study.json").write_text('{"rungs": []')
    with pytest.raises(RunError, match=r"study.json: cannot be read"):
        study_crf(config, tmp_path / "study", probs=probs, candidates=5)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="is not empty and no study"):
        study_crf(config, tmp_path / "thesis", probs=probs)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), r"train_000002.npy: no such file, nor .npz"),
        (lambda file: np.save(file, noisy_truth(2)[:12]), r"shape \(12, 64, 64\); expected \(13, 64, 64\)"),
        (lambda file: np.save(file, 5 * noisy_truth(2)), "sum to 1; apply softmax"),
        (lambda file: np.save(file, np.full_like(noisy_truth(2), np.nan)), "sum to 1; apply softmax"),
    ],
)
def test_probabilities_that_do_not_fit_are_named(
    config: RunConfig, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    for index, name in enumerate(SCENES.names):
        (tmp_path / "probs").mkdir(exist_ok=True)
        np.save(tmp_path / f"probs/{name}.npy", noisy_truth(index))
    spoil(tmp_path / "probs/train_000002.npy")
    with pytest.raises(DataError, match=message) as error:
        study_crf(config, tmp_path / "study", probs=tmp_path / "probs", candidates=5)
    assert "train_000002" in str(error.value)


def test_images_without_masks_are_left_out(tmp_path: Path, probs: Path) -> None:
    root = tmp_path / "data"
    rows = ["image,labels"]
    for index, name in enumerate(SCENES.names):
        write_mask(root / f"images/{name}.png", SCENES.image(index)[..., 0], np.zeros((256, 3), np.uint8))
        rows.append(f"{name}.png,{';'.join(SCENES.class_set.names[label] for label in SCENES.labels(index))}")
    (root / "labels.csv").write_text("\n".join(rows))
    (root / "classes.yaml").write_text(f"names: [{', '.join(SCENES.class_set.names[1:])}]")
    config = load_config("demo", ["data.dataset=folder", f"data.root={root}"])
    with pytest.raises(DataError, match="'train' has no true masks"):
        study_crf(config, tmp_path / "study", probs=probs)
    assert not (tmp_path / "study").exists()
    for index in (1, 4):
        write_mask(root / f"masks/{SCENES.names[index]}.png", SCENES.mask(index), SCENES.class_set.palette)
    assert FolderDataset(root, "train").has_masks
    assert study_crf(config, tmp_path / "study", probs=probs, candidates=5).images == 2


def test_run_gives_probabilities_that_are_kept(clip_folder: Path, tmp_path: Path) -> None:
    model = build_weakclip(
        load_clip(clip_folder), SCENES.class_set, co_attention_width=8, co_attention_heads=2, decoder_channels=8
    )
    save_weakclip(model, tmp_path / "run/2_train")
    inference = "pseudo_masks.inference={scales: [1.0], flip: false, crop: 64, stride: 64}"
    seeded = "pseudo_masks.seed_share=0.3"
    config = load_config("demo", [*OVERRIDES, f"clip.source={clip_folder}", inference, seeded])
    for index, name in enumerate(SCENES.names):
        write_mask(tmp_path / f"run/1_seeds/dense/{name}.png", SCENES.mask(index), SCENES.class_set.palette)
    study = study_crf(config, tmp_path / "study", run=tmp_path / "run", candidates=5)
    files = sorted((tmp_path / "study/probabilities").iterdir())
    assert [path.stem for path in files] == sorted(SCENES.names)
    probs = np.load(files[0])["probs"]
    assert probs.dtype == np.float16
    assert set(np.flatnonzero(probs.any(axis=(1, 2)))) == {0, *SCENES.labels(0)}
    np.testing.assert_allclose(probs.sum(axis=0, dtype=np.float32), 1, atol=2e-3)
    how, kept = config.pseudo_masks, np.array([0, *SCENES.labels(0)])
    assert 0 < how.match_share < 1 and how.keep_foreground and how.balance  # what stage 3 does is done here, too
    model.eval()
    whole = predict_probs(
        lambda images: mixed_logits(model(images), how.match_share), SCENES.image(0), how.inference, device="cpu"
    )
    whole = with_seeds(whole, SCENES.mask(0), range(len(whole)), 0.3)
    expected = label_probabilities(whole, kept, keep_foreground=True, balance=how.balance)
    np.testing.assert_allclose(probs[kept].astype(np.float32), expected, atol=2e-3)
    times = [path.stat().st_mtime_ns for path in files]
    dense = tmp_path / "run/1_seeds/dense"
    dense.rename(tmp_path / "moved")  # nothing is missing that would read it
    assert study_crf(config, tmp_path / "study", run=tmp_path / "run", candidates=5) == study
    (tmp_path / "moved").rename(dense)
    files[1].unlink()
    assert study_crf(config, tmp_path / "study", run=tmp_path / "run", candidates=5) == study
    assert [path.stat().st_mtime_ns for path in files][2:] == times[2:]
    assert (
        study_crf(config, tmp_path / "again", probs=tmp_path / "study/probabilities", candidates=5).rungs == study.rungs
    )


def test_run_without_a_fitting_weakclip_is_refused(config: RunConfig, tmp_path: Path, tiny_clip: FrozenCLIP) -> None:
    with pytest.raises(WeightsError, match=r"model.safetensors: no such file; give a run folder"):
        study_crf(config, tmp_path / "study", run=tmp_path)
    for chosen in ({}, {"run": tmp_path, "probs": tmp_path}):
        with pytest.raises(ConfigError, match="give either --run or --probs"):
            study_crf(config, tmp_path / "study", **chosen)
    assert not (tmp_path / "study").exists()


def test_seeds_of_another_split_are_missed_before_anything_is_predicted(tmp_path: Path) -> None:
    write_mask(tmp_path / "run/1_seeds/dense/train_000002.png", SCENES.mask(2), SCENES.class_set.palette)
    (tmp_path / "run/2_train").mkdir()
    (tmp_path / "run/2_train/model.safetensors").touch()
    config = load_config("demo", [*OVERRIDES, "pseudo_masks.seed_share=0.3"])
    said = r"pseudo_masks\.seed_share: 0\.3 asks .*1_seeds/dense has none of 5 of 6 images .*: set data\.train_split to"
    with pytest.raises(DataError, match=said):
        study_crf(config, tmp_path / "study", run=tmp_path / "run")
    assert not (tmp_path / "study").exists()


def test_command_prints_yaml_for_a_configuration(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], probs: Path, tmp_path: Path
) -> None:
    arguments = ["study", "crf", "demo", "--out", tmp_path / "study", "--probs", probs, "--candidates", "5"]
    for override in OVERRIDES:
        arguments += ["--set", override]
    assert call(*arguments) == 0
    shown = capsys.readouterr().out
    assert "split 'train', 6 images: a tuning set" in shown
    assert (tmp_path / "study/best.yaml").read_text() in shown
    assert call("study", "crf", "demo", "--out", tmp_path / "study") == 2
    assert "give either --run or --probs" in capsys.readouterr().err


def test_chart_and_table_without_a_score_and_with_a_hostile_split(tmp_path: Path) -> None:
    tried = crf_candidates(None, 4, np.random.default_rng(0))
    rungs = (Rung(1, dict.fromkeys(range(4), float("nan"))),)
    study = CRFStudy(folder=tmp_path, split="<b>&", images=1, candidates=tried, rungs=rungs)
    assert "<b>" not in chart(study)
    ElementTree.fromstring(chart(study))
    assert "–" in table(study)
    (tmp_path / "best.yaml").write_text(best_yaml(study))
    assert load_crf(tmp_path / "best.yaml").kernels == ()
