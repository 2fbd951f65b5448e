"""Parity with the released WeakCLIP: its checkpoint format, every intermediate result and the losses.

The cases are those of the fixtures, and those that the oracle makes of other sizes
(`tests/reference/oracle_weakclip.py`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import oracle_weakclip as oracle
import pytest
import torch
from parity_cases import FIXTURES, Case, as_float, assert_parity, case_params

from weakclip.clip.text import tokenize
from weakclip.clip.vocabulary import OPENAI_VOCABULARY, load_tokenizer, tokenizer_from_merges
from weakclip.datasets.classes import COCO14, VOC12
from weakclip.errors import WeightsError
from weakclip.modeling import WeakCLIP, load_weakclip, save_weakclip
from weakclip.modeling.losses import boundary_loss, grid_probabilities, grid_seeds, matching_loss, seeding_loss
from weakclip.modeling.official.words import VOCABULARY_SIZE, KnownWords, knows

Sizes = oracle.Sizes
MADE = {
    "two-classes": Sizes(class_names=("background", "cat"), co_layers=1, prompt_tokens=1, batch=1, spare_tokens=0),
    "voc": Sizes(class_names=VOC12.names, heads=4, co_heads=4, co_layers=3, loss_size=(17, 13), prompt_tokens=16),
    "coco": Sizes(class_names=COCO14.names, batch=1, decoder_channels=8, spare_tokens=3, stored=torch.float16),
    "twelve-layers": Sizes(layers=12, taps=(3, 5, 7, 11), heads=6, grid=3, text_layers=1, text_heads=4, co_layers=4),
    "six-layers-of-ragged-images": Sizes(
        layers=6, taps=(0, 1, 4, 5), image_size=(71, 101), loss_size=(48, 64), batch=3
    ),
    "large-patches": Sizes(patch=32, image_size=(96, 224), grid=2, seeds="undecided", loss_size=(16, 15)),
    "patches-of-14": Sizes(patch=14, image_size=(70, 42), grid=5, seeds="background", width=64, heads=1, co_heads=1),
    "small-patches": Sizes(
        patch=8, image_size=(40, 33), grid=4, prompt_tokens=4, text_width=32, text_heads=8, co_width=8
    ),
}


@pytest.fixture(scope="module", params=case_params("weakclip", {k: partial(oracle.write, v) for k, v in MADE.items()}))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return request.param(tmp_path_factory.mktemp("weakclip"))


@pytest.fixture(scope="module")
def vocabulary(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenAI's merge list for a text tower of its size; bytes without merges for a made one."""
    state = torch.load(case.file("*.pth"), weights_only=True)["state_dict"]
    if state["text_encoder.token_embedding.weight"].shape[0] == 2 * oracle.BYTES + 2:
        folder = tmp_path_factory.mktemp("vocabulary")
        tokenizer_from_merges([]).save_pretrained(folder)
        return folder
    return openai_vocabulary()


def openai_vocabulary() -> Path:
    found = sorted(FIXTURES.glob(f"*/{OPENAI_VOCABULARY}"))
    if not found:
        pytest.skip(f"no {OPENAI_VOCABULARY} in the folders of {FIXTURES}")
    return found[0]


@pytest.fixture(scope="module")
def checkpoint(case: Case) -> Path:
    return case.file("*.pth")


@pytest.fixture(scope="module")
def model(case: Case, checkpoint: Path, vocabulary: Path) -> WeakCLIP:
    return load_weakclip(checkpoint, architecture=case.config, vocabulary=vocabulary)


@torch.no_grad()
def test_intermediate_results_parity(model: WeakCLIP, case: Case) -> None:
    expected, images = case.tensors, case.tensors["image_uint8"]
    assert_parity(model.clip.normalize(images), expected["image"])
    assert_parity(model.text_embeddings()[None], expected["text_embeddings"])
    features = model.clip.encode_image(images)
    assert_parity(features.tokens[:, 0], expected["global_embedding"])
    assert_parity(features.tokens[:, 1:].transpose(1, 2).unflatten(2, features.grid), expected["pixel_embeddings"])
    strides = sorted(int(name.removeprefix("pyramid_")) for name in expected if name.startswith("pyramid_"))
    for stride, level in zip(strides, model.pyramid_adapter(features.layers), strict=True):
        assert_parity(level, expected[f"pyramid_{stride}"])
    output = model(images)
    assert_parity(output.class_embeddings, expected["matched_text_embeddings"])
    assert_parity(output.match_map, expected["match_map"])
    assert_parity(output.logits, expected["logits"])
    size = images.shape[-2:]
    whole = torch.nn.functional.interpolate(output.logits, size=size, mode="bilinear", align_corners=False)
    assert_parity(whole, expected["logits_full"])
    assert model.class_set.names == tuple(case.config["class_names"])


def test_token_parity(model: WeakCLIP, case: Case) -> None:
    """Up to the end of each text; behind it OpenAI pads with zeros."""
    found = tokenize(model.clip.tokenizer, model.class_set.names, model.clip.context_length)[0]
    for ours, theirs in zip(found, case.tensors["tokens"], strict=True):
        length = int(theirs.argmax()) + 1
        assert torch.equal(ours[:length], theirs[:length].long())


@torch.no_grad()
def test_losses_parity(model: WeakCLIP, case: Case) -> None:
    """`boundary_target` is given, not computed: it is independent of image and prediction (see `docs/parity.md`)."""
    expected, size = case.tensors, tuple(case.config["loss_size"])
    output, seeds = model(expected["image_uint8"]), expected["seed_mask"][:, 0]
    probs = grid_probabilities(output.logits, size)
    assert_parity(probs, expected["probabilities"])
    classes = torch.arange(model.class_set.num_classes)[:, None, None]
    assert torch.equal((grid_seeds(seeds, size)[:, None] == classes).float(), expected["cues"].float())
    assert_parity(seeding_loss(probs, seeds), expected["seeding_loss"])
    assert_parity(boundary_loss(probs, as_float(expected, "boundary_target")), expected["boundary_loss"])
    assert_parity(matching_loss(output.match_map, seeds), expected["matching_loss"])


def test_every_trained_tensor_of_the_checkpoint_is_used(checkpoint: Path, model: WeakCLIP) -> None:
    """Only co-attention layers before the last are left, which the released code computes for nothing."""
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    frozen = ("backbone.", "text_encoder.")
    trained = [n for n in stored if not n.startswith(frozen) or n.startswith("backbone.fpn")]
    layers = {name.split("decoder.")[-1].split(".")[0] for name in trained if "_decoder.decoder." in name}
    last = max(map(int, layers))
    used = [n for n in trained if "decoder." not in n or not any(f"decoder.{i}." in n for i in range(last))]
    assert len(used) == len(model.trainable_state())


def test_what_was_not_in_the_checkpoint_is_told(
    case: Case, checkpoint: Path, vocabulary: Path, model: WeakCLIP
) -> None:
    """By `architecture`, or assumed where it does not tell."""
    names, taps = case.config["class_names"], [tap + 1 for tap in case.config["vision"]["taps"]]
    line = model.origin
    assert "\n" not in line and line.startswith(f"{checkpoint}: released WeakCLIP: {len(names)} classes (background, ")
    for told in (
        f"prompt length {model.prompt.length}",
        f"image heads {case.config['vision']['heads']} (`architecture`)",
        f"tapped layers {', '.join(map(str, taps))} (`architecture`)",
        f"co-attention heads {case.config['co_attention']['heads']} (`architecture`)",
        f"tokenizer ({vocabulary})",
    ):
        assert told in line
    if model.clip.vision_width % 64 == 0:
        given = {"vision": {"taps": case.config["vision"]["taps"]}, "co_attention": {"heads": 1}, "class_names": names}
        assumed = load_weakclip(checkpoint, architecture=given, vocabulary=vocabulary).origin
        assert "not in the file: class names (`architecture`); image heads " in assumed
        assert f"image heads {model.clip.vision_width // 64} (64 channels each assumed)" in assumed
        assert "co-attention heads 1 (`architecture`)" in assumed


def test_a_released_model_saved_in_our_format_parity(model: WeakCLIP, case: Case, tmp_path: Path) -> None:
    saved = save_weakclip(model, tmp_path / "model")
    loaded = load_weakclip(saved, clip=model.clip)
    with torch.no_grad():
        assert_parity(loaded(case.tensors["image_uint8"]).logits, case.tensors["logits"])


def test_missing_and_unexpected_names_are_told(case: Case, checkpoint: Path, vocabulary: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    state = content["state_dict"]

    def load() -> WeakCLIP:
        torch.save(content, tmp_path / "changed.pth")
        return load_weakclip(tmp_path / "changed.pth", architecture=case.config, vocabulary=vocabulary)

    state["neck.stranger"] = torch.zeros(1)
    del state["context_decoder.out_proj.0.bias"], state["backbone.ln_post.weight"]
    told = r"missing backbone\.ln_post\.weight, missing context_decoder\.out_proj\.0\.bias, unexpected neck\.stranger$"
    with pytest.raises(WeightsError, match=told):
        load()
    del state["neck.stranger"]
    for name in [name for name in state if name.startswith("text_encoder.")]:
        del state[name]
    with pytest.raises(WeightsError, match=r"missing .* and \d+ more"):
        load()
    content["state_dict"] = {"layer.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match="not a released WeakCLIP checkpoint"):
        load()


def test_tensors_of_another_shape_are_told(case: Case, checkpoint: Path, vocabulary: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    for name, told in (("gamma", "co_attention.alpha"), ("backbone.proj", "its CLIP does not fit")):
        changed = content["state_dict"] | {name: content["state_dict"][name][:-1]}
        torch.save({"state_dict": changed, "meta": content["meta"]}, tmp_path / "changed.pth")
        with pytest.raises(WeightsError, match=told):
            load_weakclip(tmp_path / "changed.pth", architecture=case.config, vocabulary=vocabulary)


def test_without_a_vocabulary_known_names_load_and_others_are_told_parity(
    case: Case, checkpoint: Path, model: WeakCLIP
) -> None:
    """The words of VOC and COCO have the ids of OpenAI's vocabulary."""
    names = sorted({*VOC12.names, *COCO14.names})
    known, full = KnownWords(), load_tokenizer(str(openai_vocabulary()))
    assert torch.equal(tokenize(cast(Any, known), names, 77)[0], tokenize(full, names, 77)[0])
    if knows(model.class_set.names) and model.clip.vocabulary_size == VOCABULARY_SIZE:
        alone = load_weakclip(checkpoint, architecture=case.config)
        torch.testing.assert_close(alone.text_embeddings(), model.text_embeddings())
        with pytest.raises(WeightsError, match="'zeppelin' is not among"):
            alone.clip.encode_text(["zeppelin"])


def test_class_names_must_be_known(case: Case, checkpoint: Path, vocabulary: Path) -> None:
    others = case.config | {"class_names": [*case.config["class_names"], "one more"]}
    with pytest.raises(WeightsError, match="class_names"):
        load_weakclip(checkpoint, architecture=others, vocabulary=vocabulary)
