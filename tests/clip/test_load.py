"""Every door of `load_clip`, and one clear line for each that is shut."""

from __future__ import annotations

import copy
import gzip
import json
import runpy
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from weakclip.clip import convert_checkpoint, load_clip
from weakclip.clip.frozen_clip import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD
from weakclip.clip.openai_archive import convert_openai_state, read_openai_state
from weakclip.clip.vocabulary import OPENAI_VOCABULARY
from weakclip.errors import WeightsError

TEXTS = ["a photo of a cat", "boat"]


@pytest.fixture
def folder(tiny_clip, tmp_path):
    """The tiny CLIP as an ordinary folder of transformers."""
    tiny_clip.model.save_pretrained(tmp_path / "clip")
    tiny_clip.tokenizer.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def openai_model(tiny_clip):
    """A random CLIP whose heads are 64 wide, as all of OpenAI's are."""
    sizes = {"num_hidden_layers": 2, "hidden_act": "quick_gelu"}
    tokens = len(tiny_clip.tokenizer)
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    text = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1, "vocab_size": tokens}
    return CLIPModel(CLIPConfig(vision_config=sizes | vision, text_config=sizes | text, projection_dim=16))


def openai_state(model):
    """A model's weights under OpenAI's names: the way back, written apart from the way there."""
    state = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77), "logit_scale": model.logit_scale}
    for ours, theirs in (("vision_model", "visual."), ("text_model", "")):
        tower = getattr(model, ours)
        prefix = f"{theirs}transformer.resblocks."
        for index, block in enumerate(tower.encoder.layers):
            projections = [getattr(block.self_attn, f"{letter}_proj") for letter in "qkv"]
            named = {"attn.out_proj": block.self_attn.out_proj, "ln_1": block.layer_norm1, "ln_2": block.layer_norm2}
            named |= {"mlp.c_fc": block.mlp.fc1, "mlp.c_proj": block.mlp.fc2}
            for kind in ("weight", "bias"):
                joint = torch.cat([getattr(projection, kind) for projection in projections])
                state[f"{prefix}{index}.attn.in_proj_{kind}"] = joint
                state |= {f"{prefix}{index}.{name}.{kind}": getattr(part, kind) for name, part in named.items()}
    vision, text = model.vision_model, model.text_model
    state |= {
        "visual.conv1.weight": vision.embeddings.patch_embedding.weight,
        "visual.class_embedding": vision.embeddings.class_embedding,
        "visual.positional_embedding": vision.embeddings.position_embedding.weight,
        "visual.proj": model.visual_projection.weight.T,
        "token_embedding.weight": text.embeddings.token_embedding.weight,
        "positional_embedding": text.embeddings.position_embedding.weight,
        "text_projection": model.text_projection.weight.T,
    }
    norms = {"visual.ln_pre": vision.pre_layrnorm, "visual.ln_post": vision.post_layernorm}
    for name, norm in (norms | {"ln_final": text.final_layer_norm}).items():
        state |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
    return {name: value.detach().clone() for name, value in state.items()}


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_gives_back_the_weights(folder, tiny_clip):
    clip = load_clip(folder, tap_layers=(1, 2, 3, 4))
    images = torch.rand(1, 3, 32, 40)
    assert clip.source == str(folder)
    assert clip.tap_layers == (1, 2, 3, 4)
    tiny_clip.cpu()
    assert torch.equal(clip.encode_text(TEXTS), tiny_clip.encode_text(TEXTS))
    assert torch.equal(clip.encode_image(images).tokens, tiny_clip.encode_image(images).tokens)
    assert not clip.training


def test_half_precision_weights_are_loaded_in_full(folder, tiny_clip):
    tiny_clip.model.half().save_pretrained(folder)
    assert load_clip(folder).encode_text(TEXTS).dtype == torch.float32


def test_pixel_statistics_come_from_the_folder_or_are_openais(folder):
    clip = load_clip(folder)
    torch.testing.assert_close(clip.pixel_mean.flatten(), torch.tensor(CLIP_PIXEL_MEAN))
    torch.testing.assert_close(clip.pixel_std.flatten(), torch.tensor(CLIP_PIXEL_STD))
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    assert load_clip(folder).pixel_std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    for wrong in ({"image_mean": [0.1]}, statistics | {"image_std": [0, 1, 1]}, [1], {"image_mean": 1, "image_std": 1}):
        (folder / "preprocessor_config.json").write_text(json.dumps(wrong))
        with pytest.raises(WeightsError, match="expected image_mean and image_std") as caught:
            load_clip(folder)
        one_line(caught)


def test_pixel_statistics_of_transformers_5(folder):
    """`processor_config.json` holds them as `image_processor`, and goes before `preprocessor_config.json`."""
    old, new = ({"image_mean": [value] * 3, "image_std": [value] * 3} for value in (0.4, 0.5))
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    for content, mean in (
        ({"processor_class": "CLIPProcessor"}, 0.4),
        ({"image_processor": new}, 0.5),
        ({"image_processor": new | {"do_normalize": False}}, 0.0),
    ):
        (folder / "processor_config.json").write_text(json.dumps(content))
        assert load_clip(folder).pixel_mean.flatten().tolist() == pytest.approx([mean] * 3)
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": new | {"image_std": [0, 1, 1]}}))
    with pytest.raises(WeightsError, match=r"processor_config\.json: expected image_mean and image_std > 0") as caught:
        load_clip(folder)
    one_line(caught)


def test_a_clip_that_was_saved_with_its_processor(cases, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        runpy.run_path(str(cases / "clip_processor_config/make_and_load.py"))
    assert "mean [0.5, 0.5, 0.5] expected 0.5" in capsys.readouterr().out


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub that cannot be reached, with some/clip in its cache; the addresses that it was asked for."""
    snapshot = tmp_path / "hub/models--some--clip/snapshots" / ("0" * 40)
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs/main").write_text(snapshot.name)
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = []

    def ask(url, **_):
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", ask)
    return SimpleNamespace(snapshot=snapshot, asked=asked)


@pytest.mark.parametrize("name", ["processor_config.json", "preprocessor_config.json"])
def test_a_clip_in_the_cache_is_loaded_without_the_hub(name, folder, hub):
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (hub.snapshot / name).write_text(json.dumps({"image_processor": statistics, **statistics}))
    clip = load_clip("some/clip")
    assert clip.pixel_mean.flatten().tolist() == [0.5] * 3
    assert torch.equal(clip.encode_text(TEXTS), load_clip(folder).encode_text(TEXTS))
    assert not hub.asked
    with pytest.raises(WeightsError, match="other/clip: no CLIP weights to be had in the cache or on the hub"):
        load_clip("other/clip")
    assert hub.asked  # what is not in the cache is asked for


def test_pixel_statistics_that_the_cache_lacks_are_asked_for_once(hub, caplog):
    assert load_clip("some/clip").pixel_mean.flatten().tolist() == pytest.approx(CLIP_PIXEL_MEAN)
    assert len(hub.asked) == 1
    [line] = [record.getMessage() for record in caplog.records if record.name == "weakclip"]
    assert "processor_config.json cannot be had (no network); the usual pixel statistics are taken" in line


def test_a_plain_state_dict_in_openais_names(openai_model, tmp_path):
    torch.save(openai_state(openai_model), tmp_path / "clip.pt")
    model = convert_openai_state(read_openai_state(tmp_path / "clip.pt"))
    converted = model.state_dict()
    assert converted.keys() == openai_model.state_dict().keys()
    for name, value in openai_model.state_dict().items():
        assert torch.equal(converted[name], value), name
    pixels = torch.rand(1, 3, 32, 32)
    theirs = openai_model.eval().get_image_features(pixels).pooler_output
    torch.testing.assert_close(model.get_image_features(pixels).pooler_output, theirs)


def test_checkpoints_of_open_clip_were_read_as_openais(cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"openai_like\.pt: does not say its activation and heads") as caught:
        runpy.run_path(str(cases / "openclip_checkpoint/make_and_compare.py"))
    one_line(caught)
    state = torch.load("clips/openai_like.pt", weights_only=True)
    assert "input_resolution" not in state


def plain_state(model):
    """As open_clip saves it, and a fine-tuning of OpenAI's code: without the numbers of OpenAI's archives."""
    return {
        key: value for key, value in openai_state(model).items() if key not in ("input_resolution", "context_length")
    }


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("clip.pt", lambda state: state),
        ("open_clip_pytorch_model.bin", lambda state: state),
        ("open_clip_model.safetensors", lambda state: state),
        ("epoch_3.pt", lambda state: {"epoch": 3, "state_dict": {f"module.{key}": state[key] for key in state}}),
        ("model.pt", lambda state: {"model": state | {"transformer.attn_mask": torch.zeros(77, 77)}}),
    ],
)
def test_a_checkpoint_that_does_not_say_its_activation_asks(name, packed, openai_model, folder, tmp_path):
    """The folder that it is converted to is the model that it was, whichever activation and heads that has."""
    tensors = {key: value.contiguous() for key, value in plain_state(openai_model).items()}
    save = save_file if name.endswith("safetensors") else torch.save
    save(packed(tensors), tmp_path / name)
    with pytest.raises(WeightsError, match=r"does not say its activation .*convert_checkpoint\(FILE, FOLDER") as caught:
        load_clip(tmp_path / name, vocabulary=folder)
    one_line(caught)
    pixels = torch.rand(1, 3, 32, 32)
    for activation, heads in (("gelu", 2), ("quick_gelu", 1)):
        config = copy.deepcopy(openai_model.config)
        for tower in (config.vision_config, config.text_config):
            tower.hidden_act = activation
        config.vision_config.num_attention_heads = heads
        true = CLIPModel(config).eval()
        true.load_state_dict(openai_model.state_dict())
        made = tmp_path / activation
        convert_checkpoint(tmp_path / name, made, activation=activation, head_width=128 // heads, vocabulary=folder)
        model = load_clip(made, tap_layers=(1, 2)).model
        expected = true.get_image_features(pixels).pooler_output
        torch.testing.assert_close(model.get_image_features(pixels).pooler_output, expected)
        with pytest.raises(WeightsError, match="is there already"):
            convert_checkpoint(tmp_path / name, made, activation=activation)


def test_what_is_no_checkpoint_of_a_clip_is_not_converted(openai_model, tmp_path):
    state = plain_state(openai_model)
    torch.save(state, tmp_path / "clip.pt")
    torch.save(state | {"logit_bias": torch.zeros(())}, tmp_path / "siglip.pt")
    custom = {key if key.startswith("visual.") else f"text.{key}": value for key, value in state.items()}
    torch.save(custom, tmp_path / "custom.pt")
    for name, message in (
        ("clip.pt", "an image tower 128 wide, which OpenAI has none of; name its head_width too"),
        ("siglip.pt", r"siglip\.pt: holds logit_bias, as SigLIP's loss trains it; expected a CLIP"),
        ("custom.pt", "missing token_embedding.weight; its text tower is a custom one of open_clip"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            convert_checkpoint(tmp_path / name, tmp_path / "folder", activation="gelu")
        one_line(caught)
    with pytest.raises(WeightsError, match="activation: 'gelu' or 'quick_gelu' expected; found 'relu'"):
        convert_checkpoint(tmp_path / "clip.pt", tmp_path / "folder", activation="relu")
    assert not (tmp_path / "folder").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit is on its way out; OpenAI's archives stay
def test_a_torchscript_archive_is_read_without_running_it(tmp_path):
    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = torch.nn.Module()
            self.visual.conv1 = torch.nn.Conv2d(3, 4, 2, bias=False)
            self.visual.proj = torch.nn.Parameter(torch.randn(4, 6).half())
            self.token_embedding = torch.nn.Embedding(5, 4)

        def forward(self, ids):
            return self.token_embedding(ids) @ self.visual.proj.float()

    bag = Bag()
    bag.visual.forward = None
    path = tmp_path / "bag.pt"
    torch.jit.save(torch.jit.trace(bag, torch.arange(3)), path)
    state = read_openai_state(path)
    for name, value in bag.state_dict().items():
        assert torch.equal(state[name], value), name


def test_missing_weights_are_one_line(tmp_path):
    for source in (tmp_path / "none", tmp_path / "none.pt", "./none", "nobody/no-such-clip"):
        with pytest.raises(WeightsError) as caught:
            load_clip(source)
        assert str(source).removeprefix("./") in one_line(caught)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty: no config\.json") as caught:
        load_clip(tmp_path / "empty")
    one_line(caught)


def test_other_networks_and_incomplete_ones_are_refused(folder, tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"missing visual\.proj"):
        load_clip(tmp_path / "other.pt")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(WeightsError, match="found 'bert'"):
        load_clip(folder)
    config["vision_config"]["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"missing vision_model\.encoder\.layers\.4"):
        load_clip(folder)


def test_incomplete_openai_weights_name_what_is_missing(openai_model, tmp_path, folder):
    state = openai_state(openai_model)
    del state["visual.ln_post.bias"]
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=r"missing vision_model\.post_layernorm\.bias"):
        load_clip(tmp_path / "clip.pt", vocabulary=folder)
    torch.save(state | {"visual.ln_post.bias": torch.zeros(3)}, tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=r"clip\.pt: .*do not fit") as caught:
        load_clip(tmp_path / "clip.pt", vocabulary=folder)
    one_line(caught)


def test_weights_of_another_width_than_openais_are_refused(tiny_clip, tmp_path, folder):
    torch.save(openai_state(tiny_clip.model.cpu()), tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match="multiple of 64"):
        load_clip(tmp_path / "clip.pt", vocabulary=folder)


def test_a_missing_vocabulary_says_how_to_get_one(openai_model, folder, tmp_path):
    torch.save(openai_state(openai_model), tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=r"bpe_simple_vocab_16e6\.txt\.gz") as caught:
        load_clip(tmp_path / "clip.pt")
    one_line(caught)
    (tmp_path / "list.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(WeightsError, match="not OpenAI's"):
        load_clip(tmp_path / "clip.pt", vocabulary=tmp_path / "list.txt.gz")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(WeightsError, match="no tokenizer here"):
        load_clip(folder)


def test_tapped_layers_out_of_range(folder):
    with pytest.raises(WeightsError, match="counted from 1 to 4"):
        load_clip(folder, tap_layers=(1, 5))


def test_a_vocabulary_comes_from_a_folder_that_holds_openais_list(openai_model, tmp_path):
    torch.save(openai_state(openai_model), tmp_path / "clip.pt")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / OPENAI_VOCABULARY).write_bytes(gzip.compress(b"version\na b\n"))
    with pytest.raises(WeightsError, match=r"words/bpe_simple_vocab.* expected 48894 merges") as caught:
        load_clip(tmp_path / "clip.pt", vocabulary=tmp_path / "words")
    one_line(caught)
