"""OpenAI's CLIP `.pt` files: read without running anything in them, converted into a `transformers.CLIPModel`.

OpenAI ships TorchScript archives: a zip with a pickle that lists the tensors, the tensors' bytes, and program code.
The reader here admits only tensors and containers from the pickle, and never opens the program.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from weakclip.errors import WeightsError, first_line
from weakclip.store.bounded_pickle import BoundedUnpickler, unchangeable
from weakclip.store.untrusted_text import one_line
from weakclip.store.untrusted_weights import check_room, check_tensors, load_safetensors, load_torch

_DEEPEST, _MOST_TENSORS = 30, 10_000  # OpenAI's largest CLIP: 5 modules deep, some 600 tensors
OPENAI_HEAD_WIDTH = 64
"""Every CLIP of OpenAI has heads of this width (openai/CLIP, clip/model.py, build_model)."""

_EXTRA = {"input_resolution", "context_length", "vocab_size", "attn_mask", "transformer.attn_mask"}
"""Tensors that are no weights: OpenAI's numbers, and the causal mask, which is always the same."""

_CONTAINERS = ("state_dict", "model", "model_state_dict")
_PARALLEL = "module."
_STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
}


def read_openai_state(path: Path, *, of_openai: bool = False) -> dict[str, Tensor]:
    """The named tensors of an OpenAI CLIP file, a TorchScript archive or a plain state dict. No code is run.

    Args:
        path: the file; a state dict may lie under `state_dict` or `model`, and be of a model in `DataParallel`.
        of_openai: refuse a file that does not show that OpenAI's code wrote it. open_clip gives its tensors the same
            names, and its models other activations and heads, which no tensor tells.

    Raises:
        WeightsError: not such a file.
    """
    try:
        script = _is_torchscript(path)
        state = _read_torchscript(path) if script else _read_plain(path)
    except Exception as error:  # a damaged archive or pickle raises nearly anything
        reason = one_line(first_line(error))
        raise WeightsError(f"{path}: not a CLIP `.pt` file that can be read safely ({reason})") from None
    missing = [key for key in ("visual.proj", "visual.conv1.weight", "token_embedding.weight") if key not in state]
    if missing:
        text = "; its text tower is a custom one of open_clip" if any(key.startswith("text.") for key in state) else ""
        raise WeightsError(f"{path}: not an OpenAI CLIP with a ViT image tower; missing {', '.join(missing)}{text}")
    if "logit_bias" in state:
        raise WeightsError(f"{path}: holds logit_bias, as SigLIP's loss trains it; expected a CLIP")
    if of_openai and not script and "input_resolution" not in state:
        raise WeightsError(
            f"{path}: does not say its activation and heads, as files of OpenAI do by input_resolution and those of "
            "open_clip do not; convert it once: weakclip.clip.convert_checkpoint(FILE, FOLDER, activation=…) with "
            "'gelu' for most of open_clip, 'quick_gelu' for OpenAI's weights, and give FOLDER"
        )
    return {key: value for key, value in state.items() if key not in _EXTRA}


def convert_openai_state(
    state: Mapping[str, Tensor], *, activation: str = "quick_gelu", head_width: int = OPENAI_HEAD_WIDTH
) -> CLIPModel:
    """A `CLIPModel` in float32 with the weights of OpenAI's naming.

    Args:
        state: tensors by OpenAI's names, complete.
        activation: of both towers, by its name in transformers; the default is OpenAI's.
        head_width: numbers in an attention head of the image tower; the text tower's heads are OpenAI's.

    Raises:
        WeightsError: missing, unexpected or ill-shaped tensors.
    """
    try:
        widths = (state["visual.conv1.weight"].shape[0], state["token_embedding.weight"].shape[1])
        check_room(state, [3 * width * width for width in widths])
        model = CLIPModel(_config_of(state, activation, head_width))
    except (KeyError, ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise WeightsError(f"not OpenAI's weights: {error!r}") from None
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        converted.update(_renamed(key, value.float()))
    try:
        outcome = model.load_state_dict(converted, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"OpenAI CLIP weights do not fit: {str(error).splitlines()[-1].strip()}") from None
    wrong = [f"missing {key}" for key in outcome.missing_keys if not key.endswith("position_ids")]
    wrong += [f"unexpected {key}" for key in outcome.unexpected_keys]
    if wrong:
        raise WeightsError(f"OpenAI CLIP weights do not fit: {', '.join(wrong[:5])}")
    return model.eval()


def _config_of(state: Mapping[str, Tensor], activation: str, head_width: int) -> CLIPConfig:
    """The sizes that the weights' shapes tell; the epsilon is OpenAI's."""
    vision_width, _, patch, _ = state["visual.conv1.weight"].shape
    side = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    vocabulary, text_width = state["token_embedding.weight"].shape
    embed_dim = state["text_projection"].shape[1]
    if vision_width % head_width or text_width % OPENAI_HEAD_WIDTH:
        widths, heads = f"{vision_width} and {text_width}", f"{head_width} and {OPENAI_HEAD_WIDTH}"
        raise WeightsError(f"not OpenAI's weights: tower widths are a multiple of {heads}; found {widths}")
    shared = {"hidden_act": activation, "layer_norm_eps": 1e-5, "projection_dim": embed_dim}
    return CLIPConfig(
        vision_config=shared
        | {
            "hidden_size": vision_width,
            "intermediate_size": _inner_width(state, "visual.", vision_width),
            "num_hidden_layers": _depth(state, "visual.transformer.resblocks"),
            "num_attention_heads": vision_width // head_width,
            "image_size": side * patch,
            "patch_size": patch,
        },
        text_config=shared
        | {
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": _inner_width(state, "", text_width),
            "num_hidden_layers": _depth(state, "transformer.resblocks"),
            "num_attention_heads": text_width // OPENAI_HEAD_WIDTH,
            "max_position_embeddings": state["positional_embedding"].shape[0],
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
        projection_dim=embed_dim,
    )


def _inner_width(state: Mapping[str, Tensor], tower: str, width: int) -> int:
    """Of the two layers of a block; four times its own in CLIP."""
    layer = state.get(f"{tower}transformer.resblocks.0.mlp.c_fc.weight")
    return 4 * width if layer is None else layer.shape[0]


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", key) for key in state)
    return 1 + max(int(match.group(1)) for match in found if match)


_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_RENAMED = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_BLOCK_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def _renamed(key: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor under its name in `transformers`; the joint query-key-value projection becomes three."""
    if key in _TRANSPOSED:
        return {_TRANSPOSED[key]: value.T.contiguous()}
    if key in _RENAMED:
        return {_RENAMED[key]: value}
    match = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", key)
    if match is None:
        return {key: value}
    tower = "vision_model" if match.group(1) else "text_model"
    block, part, kind = f"{tower}.encoder.layers.{match.group(2)}", match.group(3), match.group(4)
    if part == "attn.in_proj":
        names = (f"{block}.self_attn.{letter}_proj.{kind}" for letter in "qkv")
        return dict(zip(names, value.chunk(3), strict=True))
    return {f"{block}.{_BLOCK_PARTS.get(part, part)}.{kind}": value}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_plain(path: Path) -> dict[str, Tensor]:
    loaded = load_safetensors(path)[0] if path.suffix == ".safetensors" else load_torch(path)
    state: dict[Any, Any] = loaded if isinstance(loaded, dict) else {}
    state = next((state[key] for key in _CONTAINERS if isinstance(state.get(key), dict)), state)
    return {str(key).removeprefix(_PARALLEL): value for key, value in state.items() if isinstance(value, Tensor)}


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        packed = [name for name in packed if "/data" in name]
        if packed:  # torch packs only program code; some kilobytes can stand for any number of gigabytes
            raise ValueError(f"compressed entry {packed[0]!r}; torch stores tensors as they are")
        folder = next(name for name in archive.namelist() if name.endswith("/data.pkl"))[: -len("data.pkl")]
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("big-endian archive")
        with archive.open(f"{folder}data.pkl") as file:
            root = _TensorUnpickler(file, lambda key: archive.read(f"{folder}data/{key}")).load()
    state: dict[str, Tensor] = {}
    _collect(root, "", state)
    check_tensors(state.values())
    return state


def _collect(module: Any, prefix: str, state: dict[str, Tensor]) -> None:
    if prefix.count(".") > _DEEPEST:
        raise ValueError(f"modules within more than {_DEEPEST} modules")
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            state[prefix + name] = value
            if len(state) > _MOST_TENSORS:
                raise ValueError(f"more than {_MOST_TENSORS:,} tensors")
        elif isinstance(value, _ScriptModule):
            _collect(value, f"{prefix}{name}.", state)


class _ScriptModule:
    """Stands for any TorchScript module: a bag of attributes. A pickle may fill one, and not change this class."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _TensorUnpickler(BoundedUnpickler):
    """Builds tensors, containers and bags of attributes; every other name in the pickle is refused."""

    def __init__(self, file: Any, read_bytes: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._read_bytes = read_bytes

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__."):
            return _ScriptModule
        if module == "torch" and name in _STORAGE_TYPES:
            return _STORAGE_TYPES[name]
        allowed = {("torch._utils", "_rebuild_tensor_v2"): _rebuild, ("collections", "OrderedDict"): OrderedDict}
        return allowed.get((module, name)) or super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        return torch.frombuffer(bytearray(self._read_bytes(str(key))), dtype=dtype, count=int(count))


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    if math.prod(size) > storage.numel():
        raise ValueError(f"{storage.numel()} numbers as a tensor of {tuple(size)}")
    return torch.as_strided(storage, size, stride, offset).clone()


unchangeable(_rebuild)
