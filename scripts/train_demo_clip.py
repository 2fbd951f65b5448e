"""Train the demo CLIP: a small `transformers.CLIPModel` from scratch, on captions of Scenes.

The pictures come from the "captions" stream of Scenes, which shares no seed with train or val. Masks are never read.

Three stages, because the image tower trained contrastively by itself stood at a mean average precision of 0.33 after
64,000 pictures, and the teacher of the first stage at 0.86:
1. A small convolutional teacher and the text tower are trained contrastively. Two similarities are contrasted with the
   same texts: that of a whole-image token, as in CLIP (Radford et al., ICML 2021), and the mean over the best patches,
   as in the late interaction of FILIP (Yao et al., ICLR 2022), so that patches localise. A picture and a text that says
   only true things of it are a positive pair (as in UniCL, Yang et al., CVPR 2022).
2. The image tower learns to give the teacher's tokens (distillation), so that it speaks the language of the text tower:
   first of windows of the pictures, which is faster, then of whole pictures. It starts as a convolution would.
3. The image tower is trained contrastively against the texts, as in CLIP, while the distillation goes on and the class
   token learns to ignore the patches before the last layer: Grad-CAM looks at the input of the last layer, and
   cannot see what was read earlier.

    python scripts/train_demo_clip.py --work /tmp/demo_clip --out src/weakclip/clip/demo

The work folder holds the drawn pictures and a checkpoint of each stage; the same command continues where it stopped.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from weakclip.datasets.scene_drawing import draw_scene
from weakclip.datasets.scene_shapes import BLUEPRINTS, COLORS, GROUNDS
from weakclip.datasets.scenes import ScenesDataset

TEMPLATES = ("a photo of a {}", "a picture of a {}", "a {}", "a clean origami {}", "an image of a {} in a scene", "{}")
GROUND_TEMPLATES = ("{}", "a photo of {}", "a clean origami {}", "{} in the background", "a {} background")
CLASSES, GROUND_NAMES, COLOR_NAMES = list(BLUEPRINTS), list(GROUNDS), list(COLORS)
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI CLIP
CAPTION_STREAM = 2
TUNING_SEED = 7  # of the pictures of Scenes on which training is watched
BEST_SHARE = 0.045  # of the patches: about half of an object
WINDOW, WINDOW_SHARE = 11, 0.75  # patches a side, and the share of the second stage that sees only windows


def draw_chunk(first: int, count: int, seed: int) -> tuple[np.ndarray, list[dict]]:
    """Draw pictures `first…first+count`; their pixels and what they show."""
    scenes = [draw_scene((seed, CAPTION_STREAM, index)) for index in range(first, first + count)]
    facts = [{"objects": scene.objects, "grounds": scene.grounds} for scene in scenes]
    return np.stack([scene.image for scene in scenes]), facts


def drawn_pictures(work: Path, count: int, seed: int) -> tuple[np.ndarray, list[dict]]:
    """All training pictures `(N, 128, 128, 3)` uint8 and their facts, drawn once and kept in the work folder."""
    pixels_path, facts_path = work / "pictures.npy", work / "facts.json"
    if not facts_path.exists():
        pixels = np.lib.format.open_memmap(pixels_path, mode="w+", dtype=np.uint8, shape=(count, 128, 128, 3))
        facts: list[dict] = []
        with concurrent.futures.ProcessPoolExecutor() as pool:
            starts = range(0, count, 500)
            counts = [min(500, count - start) for start in starts]
            chunks = pool.map(draw_chunk, starts, counts, [seed] * len(starts))
            for start, (images, part) in zip(starts, chunks, strict=True):
                pixels[start : start + len(images)] = images
                facts += part
        pixels.flush()
        facts_path.write_text(json.dumps(facts))
    return np.load(pixels_path), json.loads(facts_path.read_text())


class Texts:
    """The texts of one step and which pictures they are true of."""

    def __init__(self, facts: list[dict], rng: np.random.Generator) -> None:
        self.texts: list[str] = []
        self.local: list[bool] = []
        needs: list[tuple[list[tuple[str, str | None]], str | None]] = []

        def add(text: str, objects: list[tuple[str, str | None]], ground: str | None, local: bool) -> None:
            self.texts.append(text)
            self.local.append(local)
            needs.append((objects, ground))

        for name in CLASSES:
            add(rng.choice(TEMPLATES).format(name), [(name, None)], None, True)
        for ground in GROUND_NAMES:
            add(rng.choice(GROUND_TEMPLATES).format(ground), [], ground, True)
        for fact in (facts[i] for i in rng.permutation(len(facts))[:24]):
            name, color = fact["objects"][rng.integers(len(fact["objects"]))]
            add(rng.choice(TEMPLATES).format(f"{color} {name}"), [(name, color)], None, True)
        for fact in (facts[i] for i in rng.permutation(len(facts))[:22]):
            shown = [tuple(fact["objects"][i]) for i in rng.permutation(len(fact["objects"]))]
            objects = [(name, color if rng.random() < 0.4 else None) for name, color in shown]
            ground = str(rng.choice(fact["grounds"])) if rng.random() < 0.6 or len(objects) == 1 else None
            words = " and a ".join(f"{color} {name}" if color else name for name, color in objects)
            joint = rng.choice(["on", "in front of", "with"])
            add(rng.choice(TEMPLATES).format(words) + (f" {joint} {ground}" if ground else ""), objects, ground, False)
        self.truth = torch.tensor([[self._true(fact, *need) for need in needs] for fact in facts])

    @staticmethod
    def _true(fact: dict, objects: list[tuple[str, str | None]], ground: str | None) -> bool:
        shown = {tuple(item) for item in fact["objects"]} | {(name, None) for name, _ in fact["objects"]}
        return all(item in shown for item in objects) and (ground is None or ground in fact["grounds"])


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's kind over the words of the captions; every other text falls back to bytes."""
    words = [t.format(w) for t in TEMPLATES + GROUND_TEMPLATES for w in (*CLASSES, *COLOR_NAMES, *GROUND_NAMES)]
    words += ["and a", "on", "in front of", "with", "background"]
    base = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    base.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), to_bytes])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    base.train_from_iterator(words, trainer)
    learned = json.loads(base.to_str())["model"]
    merges = [tuple(pair) if not isinstance(pair, str) else tuple(pair.split(" ")) for pair in learned["merges"]]
    pieces = alphabet + [symbol + "</w>" for symbol in alphabet] + ["".join(pair) for pair in merges]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """3.5 million parameters: a 6-layer image tower of 8×8 patches at 128×128, a 3-layer causal text tower."""
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3,
        "num_attention_heads": 2, "max_position_embeddings": 77, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "hidden_act": "gelu",
    }  # fmt: skip
    vision = {
        "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6,
        "image_size": 128, "patch_size": 8, "hidden_act": "gelu",
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    start_as_convolution(model.vision_model)
    return model


@torch.no_grad()
def start_as_convolution(tower: nn.Module) -> None:
    """First weights with which every attention head looks at one neighbour, so that the tower starts as a CNN would.

    Positions are
    sines and cosines in channels of their own; turning their phase in the queries moves the peak of the attention to
    the neighbour (Cordonnier et al., "On the Relationship between Self-Attention and Convolutional Layers", ICLR 2020).
    The last head of each layer looks everywhere.
    """
    table, width = (
        tower.embeddings.position_embedding.weight,
        tower.config.hidden_size // tower.config.num_attention_heads,
    )
    side, speeds = round((len(table) - 1) ** 0.5), 2.0 * 0.65 ** torch.arange(width // 4)
    rows, columns = (axis.reshape(-1, 1) * speeds for axis in torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij"))
    table[1:, :width] = 2.0 * torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=1)
    table[0, :width] = 0
    tower.embeddings.patch_embedding.weight[:width] = 0
    neighbours = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
    for index, layer in enumerate(tower.encoder.layers):
        layer.self_attn.out_proj.weight[:width] = layer.mlp.fc2.weight[:width] = 0
        attention, reach = layer.self_attn, 1 + index // 2
        for head in range(attention.num_heads - 1):
            down, right = neighbours[(head + 3 * index) % len(neighbours)]
            block = slice(head * width, (head + 1) * width)
            turn = torch.block_diag(*(_turn(speeds * reach * step) for step in (down, right)))
            for projection, matrix in ((attention.q_proj, turn), (attention.k_proj, torch.eye(width))):
                others = matrix.sum(1, keepdim=True) / (tower.config.hidden_size - width)
                projection.weight[block] = -0.9 * others  # rows sum to 0, so that the norm's mean drops out
                projection.weight[block, :width] = 0.9 * matrix


def _turn(angles: Tensor) -> Tensor:
    """The matrix that adds `angles` to the phases of `(sines, cosines)`."""
    cos, sin = torch.diag(angles.cos()), torch.diag(angles.sin())
    return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])


def image_tokens(model: nn.Module, pixels: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
    """Projected, normalised tokens `(B, 1+n, E)` and their places `(B, 1+n)`, the class token first.

    With a `window`, each picture shows a square of that number of patches a side, somewhere.
    """
    tower = model.vision_model
    hidden = tower.embeddings(pixels)
    count, side = len(hidden), round((hidden.shape[1] - 1) ** 0.5)
    span = torch.arange(side if window is None else window)
    top, left = torch.randint(side - len(span) + 1, (2, count, 1))
    patches = ((top + span)[:, :, None] * side + (left + span)[:, None, :]).flatten(1)
    places = torch.cat([torch.zeros(count, 1, dtype=torch.long), 1 + patches], dim=1)
    hidden = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
    hidden = tower.encoder(inputs_embeds=tower.pre_layrnorm(hidden)).last_hidden_state
    tokens = functional.normalize(model.visual_projection(tower.post_layernorm(hidden)).float(), dim=-1)
    return tokens, places


def text_embeddings(model: nn.Module, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Normalised text embeddings `(T, E)`."""
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    pooled = model.text_model(**tokens).pooler_output
    return functional.normalize(model.text_projection(pooled).float(), dim=-1)


def contrast(similarity: Tensor, truth: Tensor) -> Tensor:
    """Each true pair against all false pairs of its row, and of its column; the mean over true pairs."""
    loss = similarity.new_zeros(())
    for dim in (0, 1):
        rivals = similarity.masked_fill(truth, -1e4).logsumexp(dim, keepdim=True)
        loss = loss + functional.softplus(rivals - similarity)[truth].mean()
    return loss / 2


def normalized(images: np.ndarray) -> Tensor:
    """uint8 pictures `(B, S, S, 3)` to normalised pixels `(B, 3, S, S)`."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)


@torch.no_grad()
def zero_shot_map(
    tokens_of: Callable[[Tensor], Tensor], text_side: nn.Module, tokenizer: CLIPTokenizer, seed: int = TUNING_SEED
) -> tuple[float, dict[str, float]]:
    """Mean average precision of "a photo of a …" on the labels of a draw of Scenes val, and that of each class."""
    dataset = ScenesDataset("val", seed=seed)
    texts = text_embeddings(text_side, tokenizer, [f"a photo of a {name}" for name in CLASSES])
    images = np.stack([dataset.image(i) for i in range(len(dataset))])
    chunks = [normalized(images[i : i + 50]) for i in range(0, len(images), 50)]
    class_tokens = torch.cat([tokens_of(chunk)[:, 0] for chunk in chunks])
    scores = (class_tokens @ texts.T).numpy()
    result = {}
    for index, name in enumerate(CLASSES):
        truth = np.array([index + 1 in dataset.labels(i) for i in range(len(dataset))])
        if not truth.any():
            continue
        ranked = truth[np.argsort(-scores[:, index], kind="stable")]
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        result[name] = float(precision[ranked].mean())
    return float(np.mean(list(result.values()))), result


class Residual(nn.Module):
    """A dilated 3×3 convolution around which the input passes."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.relu(self.norm(self.convolution(x)))


class Teacher(nn.Module):
    """A convolutional network that gives a picture the tokens that the image tower will learn to give."""

    def __init__(self, embed_dim: int, width: int = 160) -> None:
        super().__init__()
        sizes = ((3, 32, 2), (32, 64, 2), (64, 64, 1), (64, width, 2))
        stem = [
            layer
            for before, after, stride in sizes
            for layer in (nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        ]
        self.body = nn.Sequential(*stem, *(Residual(width, dilation) for dilation in (1, 1, 2, 2)))
        self.patch = nn.Conv2d(width, embed_dim, 1)
        self.whole = nn.Linear(2 * width, embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised tokens `(B, 1+hw, E)`, the whole-image token first, one patch for 8×8 pixels."""
        features = self.body(pixels.contiguous(memory_format=torch.channels_last))
        whole = self.whole(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))
        tokens = torch.cat([whole[:, None], self.patch(features).flatten(2).transpose(1, 2)], dim=1)
        return functional.normalize(tokens.float(), dim=-1)


class Batch:
    """Pictures of one step, mirrored and jittered, and their texts; all of it follows from (seed, stage, step)."""

    def __init__(self, pictures: np.ndarray, facts: list[dict], rng: np.random.Generator, size: int) -> None:
        self.chosen = rng.integers(len(pictures), size=size)
        self.texts = Texts([facts[i] for i in self.chosen], rng)
        self.mirror = rng.random(size) < 0.5
        images = np.ascontiguousarray(pictures[self.chosen])
        images[self.mirror] = images[self.mirror, :, ::-1]
        gain = torch.from_numpy(rng.uniform(0.8, 1.2, (size, 1, 1, 1))).float()
        shift = torch.from_numpy(rng.uniform(-0.3, 0.3, (size, 3, 1, 1))).float()
        self.pixels = normalized(images) * gain + shift

    def targets(self, stored: np.ndarray) -> Tensor:
        """The teacher's tokens of these pictures, `(B, 1+hw, E)`, mirrored as they are."""
        tokens = stored[self.chosen]
        grid = tokens[:, 1:].reshape(len(tokens), 16, 16, -1)
        grid[self.mirror] = grid[self.mirror, :, ::-1]
        return torch.from_numpy(tokens).float()


class EarlyReading:
    """How little of its attention the class token pays to itself before the last layer, as a loss.

    The mean of −log over images, heads and those layers; 0 where it reads no patch.
    """

    def __init__(self, tower: nn.Module) -> None:
        self.heads = tower.config.num_attention_heads
        self.found: dict[str, list[Tensor]] = {"q_proj": [], "k_proj": []}
        for layer in tower.encoder.layers[:-1]:
            for name in self.found:
                getattr(layer.self_attn, name).register_forward_hook(functools.partial(self._keep, name))

    def _keep(self, name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.found[name].append(output.unflatten(2, (self.heads, -1)))

    def forget(self) -> None:
        """Drop what earlier passes left."""
        for kept in self.found.values():
            kept.clear()

    def loss(self) -> Tensor:
        """Of the passes since `forget`."""
        shares = []
        for query, key in zip(*self.found.values(), strict=True):
            logits = torch.einsum("bhd,bnhd->bhn", query[:, 0].float(), key.float()) / query.shape[-1] ** 0.5
            shares.append(-logits.log_softmax(-1)[..., 0].mean())
        return torch.stack(shares).mean()


def contrasts(tokens: Tensor, words: Tensor, texts: Texts, scale: Tensor) -> Tensor:
    """Contrast of the whole-image token, and of the best patches with the texts that speak of one thing."""
    local = torch.tensor(texts.local)
    best = max(2, round(BEST_SHARE * (tokens.shape[1] - 1)))
    patches = (tokens[:, 1:] @ words[local].T).topk(best, dim=1).values.mean(1)
    return contrast(scale * (tokens[:, 0] @ words.T), texts.truth) + contrast(scale * patches, texts.truth[:, local])


def run_stage(
    name: str, trained: nn.Module, loss_at: Callable[[int], Tensor], score: Callable[[nn.Module], float], options: Stage
) -> list[dict]:
    """AdamW with warm-up and cosine and an averaged copy, continued from the stage's checkpoint; returns the log.

    The averaged weights stand in `trained` at the end.
    """
    matrices = {key for key, p in trained.named_parameters() if p.ndim > 1 and "embedding" not in key}
    groups = [
        {"params": [p for key, p in trained.named_parameters() if (key in matrices) == wanted], "weight_decay": decay}
        for wanted, decay in ((True, 0.05), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(0.995), use_buffers=True)
    parts = {"trained": trained, "average": average, "optimizer": optimizer}
    checkpoint, start, seconds, log = options.work / f"{name}.pt", 0, 0.0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for key, part in parts.items():
            part.load_state_dict(state[key])
        start, seconds, log = state["step"], state["seconds"], json.loads(state["log"])
    began, recent = time.perf_counter() - seconds, []
    for step in range(start, options.steps):
        rate = min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
        for group in optimizer.param_groups:
            group["lr"] = options.rate * rate
        trained.train()
        loss = loss_at(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(trained)
        recent = [*recent[-49:], loss.item()]
        done, spent = step + 1, time.perf_counter() - began
        if done % 50 == 0:
            print(f"{name} {done}/{options.steps} loss {np.mean(recent):.3f} {spent:.0f}s", flush=True)
        if done % 250 == 0 or done == options.steps:
            found = {"step": done, "seconds": round(spent), "loss": round(float(np.mean(recent)), 3)}
            log.append(found | {"map": round(score(average.module.eval()), 4)})
            print(name, log[-1], flush=True)
            state = {key: part.state_dict() for key, part in parts.items()}
            torch.save({**state, "step": done, "seconds": spent, "log": json.dumps(log)}, options.work / "next.pt")
            (options.work / "next.pt").replace(checkpoint)
    trained.load_state_dict(average.module.state_dict())
    trained.eval()
    return log


@dataclass(frozen=True)
class Stage:
    """How long a stage runs, at which learning rate, and where its checkpoint lies."""

    steps: int
    rate: float
    work: Path


class TeacherStage(nn.Module):
    """The networks of the first stage: the teacher and the text side of the CLIP."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.teacher = Teacher(model.projection_dim)
        self.text_model, self.text_projection, self.logit_scale = (
            model.text_model,
            model.text_projection,
            model.logit_scale,
        )


class ImageTower(nn.Module):
    """The networks of the later stages: the image side of the CLIP."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection


@torch.no_grad()
def teacher_tokens(teacher: Teacher, pictures: np.ndarray, path: Path) -> np.ndarray:
    """The teacher's tokens of all pictures, `(N, 257, E)` float16, computed once and kept in the work folder."""
    if not path.exists():
        chunks = []
        for start in range(0, len(pictures), 200):
            with torch.autocast("cpu", torch.bfloat16):
                chunks.append(teacher(normalized(pictures[start : start + 200])).half().numpy())
        np.save(path.with_suffix(".part.npy"), np.concatenate(chunks))
        path.with_suffix(".part.npy").replace(path)
    return np.load(path)


def train(model: CLIPModel, tokenizer: CLIPTokenizer, options: argparse.Namespace) -> dict[str, list[dict]]:
    """All stages; the log of each."""
    pictures, facts = drawn_pictures(options.work, options.pictures, options.seed)

    def batch_at(stage: int, step: int) -> Batch:
        rng = np.random.default_rng([options.seed, stage, step])
        torch.manual_seed(int(rng.integers(2**31)))
        return Batch(pictures, facts, rng, options.teacher_batch if stage == 1 else options.batch)

    first = TeacherStage(model)

    def teacher_loss(step: int) -> Tensor:
        batch = batch_at(1, step)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = first.teacher(batch.pixels)
        words = text_embeddings(first, tokenizer, batch.texts.texts)
        return contrasts(tokens, words, batch.texts, first.logit_scale.exp().clamp(max=100))

    def teacher_score(averaged: nn.Module) -> float:
        return zero_shot_map(averaged.teacher, averaged, tokenizer)[0]

    logs = {}
    stage = Stage(options.teacher_steps, options.teacher_lr, options.work)
    logs["teacher"] = run_stage("teacher", first, teacher_loss, teacher_score, stage)
    stored = teacher_tokens(first.teacher, pictures, options.work / "teacher_tokens.npy")

    def tower_loss(step: int) -> Tensor:
        batch, whole = batch_at(2, step), step >= WINDOW_SHARE * options.steps
        with torch.autocast("cpu", torch.bfloat16):
            tokens, places = image_tokens(model, batch.pixels, None if whole else WINDOW)
        targets = batch.targets(stored).gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
        difference = 1 - (tokens * targets).sum(-1)
        return difference[:, 1:].mean() + (1.0 if whole else 0.1) * difference[:, 0].mean()

    def tower_score(averaged: nn.Module) -> float:
        return zero_shot_map(lambda pixels: image_tokens(averaged, pixels)[0], model, tokenizer)[0]

    stage = Stage(options.steps, options.lr, options.work)
    logs["image_tower"] = run_stage("image_tower", ImageTower(model), tower_loss, tower_score, stage)

    early = EarlyReading(model.vision_model)

    def contrast_loss(step: int) -> Tensor:
        batch = batch_at(3, step)
        early.forget()
        with torch.autocast("cpu", torch.bfloat16):
            tokens, _ = image_tokens(model, batch.pixels)
        with torch.no_grad():
            words = text_embeddings(model, tokenizer, batch.texts.texts)
        difference = 1 - (tokens * batch.targets(stored)).sum(-1)
        similarity = model.logit_scale.exp().detach() * (tokens[:, 0] @ words.T)
        distillation = difference[:, 1:].mean() + difference[:, 0].mean()
        return distillation + 0.3 * contrast(similarity, batch.texts.truth) + 0.1 * early.loss()

    stage = Stage(options.contrast_steps, options.contrast_lr, options.work)
    logs["contrast"] = run_stage("contrast", ImageTower(model), contrast_loss, tower_score, stage)
    return logs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="drawn pictures and checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--teacher-steps", type=int, default=1800)
    parser.add_argument("--teacher-lr", type=float, default=2e-3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--contrast-steps", type=int, default=1800)
    parser.add_argument("--contrast-lr", type=float, default=6e-4)
    parser.add_argument("--teacher-batch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer(options.out)
    model = build_model(tokenizer)
    log = train(model, tokenizer, options)
    model.half().save_pretrained(options.out)  # the stored weights are the ones that are scored
    stored = CLIPModel.from_pretrained(options.out, dtype=torch.float32).eval()
    score, classes = zero_shot_map(lambda pixels: image_tokens(stored, pixels)[0], stored, tokenizer, seed=0)
    statistics = {"image_mean": PIXEL_MEAN, "image_std": PIXEL_STD}
    (options.out / "preprocessor_config.json").write_text(json.dumps(statistics, indent=2) + "\n")
    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "zero_shot_map_scenes_val": score,
        "per_class": classes,
        "settings": {key: value for key, value in vars(options).items() if key not in ("work", "out")},
        "torch": torch.__version__,
        "log": log,
    }
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"zero-shot mean average precision on Scenes val: {score:.4f}")


if __name__ == "__main__":
    main()
