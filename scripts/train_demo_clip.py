"""Train the demo CLIP: a small `transformers.CLIPModel` from scratch, contrastively, on captions of Scenes.

The pictures come from the "captions" stream of Scenes, which shares no seed with train or val. Masks are never read.
Two similarities are contrasted with the same texts: that of the class token, as in CLIP (Radford et al., ICML 2021),
and the mean over the best patch tokens, as in FILIP's late interaction (Yao et al., ICLR 2022), so that patch tokens
localise. A picture and a text that says only true things of it are a positive pair (as in UniCL, Yang et al., CVPR
2022). Half of the patches are left out in most of the training (FLIP, Li et al., CVPR 2023).

    python scripts/train_demo_clip.py --work /tmp/demo_clip --out src/weakclip/clip/demo

The work folder holds the drawn pictures and a checkpoint; the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from weakclip.datasets.scene_shapes import BLUEPRINTS, COLORS, GROUNDS
from weakclip.datasets.scenes import ScenesDataset, draw_scene

TEMPLATES = ("a photo of a {}", "a picture of a {}", "a {}", "a clean origami {}", "an image of a {} in a scene", "{}")
GROUND_TEMPLATES = ("{}", "a photo of {}", "a clean origami {}", "{} in the background", "a {} background")
CLASSES, GROUND_NAMES, COLOR_NAMES = list(BLUEPRINTS), list(GROUNDS), list(COLORS)
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI CLIP
CAPTION_STREAM = 2
BEST_PATCHES = 6


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
        "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 3,
        "image_size": 128, "patch_size": 8, "hidden_act": "gelu",
    }  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def image_tokens(model: CLIPModel, pixels: Tensor, keep: int) -> Tensor:
    """Projected, normalised tokens `(B, 1+keep, E)` of a random choice of patches."""
    tower = model.vision_model
    hidden = tower.embeddings(pixels)
    count = hidden.shape[1] - 1
    if keep < count:
        chosen = torch.rand(len(hidden), count).topk(keep, dim=1).indices + 1
        patches = hidden.gather(1, chosen[..., None].expand(-1, -1, hidden.shape[2]))
        hidden = torch.cat([hidden[:, :1], patches], dim=1)
    hidden = tower.encoder(inputs_embeds=tower.pre_layrnorm(hidden)).last_hidden_state
    return functional.normalize(model.visual_projection(tower.post_layernorm(hidden)).float(), dim=-1)


def text_embeddings(model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
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


def jittered(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Mirror, contrast and brightness at random."""
    pixels = normalized(images)
    mirror = torch.from_numpy(rng.random(len(images)) < 0.5)
    pixels[mirror] = pixels[mirror].flip(3)
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (len(images), 1, 1, 1))).float()
    shift = torch.from_numpy(rng.uniform(-0.3, 0.3, (len(images), 3, 1, 1))).float()
    return pixels * gain + shift


@torch.no_grad()
def zero_shot_map(model: CLIPModel, tokenizer: CLIPTokenizer) -> tuple[float, dict[str, float]]:
    """Mean average precision of "a photo of a …" on the labels of Scenes val, and that of each class."""
    dataset = ScenesDataset("val")
    texts = text_embeddings(model, tokenizer, [f"a photo of a {name}" for name in CLASSES])
    images = np.stack([dataset.image(i) for i in range(len(dataset))])
    chunks = [normalized(images[i : i + 50]) for i in range(0, len(images), 50)]
    class_tokens = torch.cat([image_tokens(model, chunk, keep=10**6)[:, 0] for chunk in chunks])
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


def keep_at(step: int, steps: int) -> int:
    """How many of the 256 patches a step sees: fewer while much is to be learned, all of them at the end."""
    return 96 if step < 0.7 * steps else 144 if step < 0.94 * steps else 256


def step_loss(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    pictures: np.ndarray,
    facts: list[dict],
    *,
    rng: np.random.Generator,
    keep: int,
) -> Tensor:
    """Whole-image and patch contrast of one batch with its texts."""
    texts = Texts(facts, rng)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = image_tokens(model, jittered(pictures, rng), keep)
    words = text_embeddings(model, tokenizer, texts.texts)
    scale = model.logit_scale.exp().clamp(max=100)
    local = torch.tensor(texts.local)
    best = max(2, round(BEST_PATCHES * keep / 128))
    patches = (tokens[:, 1:] @ words[local].T).topk(best, dim=1).values.mean(1)
    return contrast(scale * (tokens[:, 0] @ words.T), texts.truth) + contrast(scale * patches, texts.truth[:, local])


def build_optimizer(model: CLIPModel, rate: float) -> torch.optim.AdamW:
    """AdamW that decays matrices alone."""
    decayed = {name for name, p in model.named_parameters() if p.ndim > 1 and "embedding" not in name}
    groups = [
        {"params": [p for name, p in model.named_parameters() if (name in decayed) == wanted], "weight_decay": decay}
        for wanted, decay in ((True, 0.05), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def train(model: CLIPModel, tokenizer: CLIPTokenizer, options: argparse.Namespace) -> list[dict]:
    """The whole training, continued from the work folder's checkpoint where there is one; returns its log."""
    pictures, facts = drawn_pictures(options.work, options.pictures, options.seed)
    optimizer = build_optimizer(model, options.lr)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    parts = {"model": model, "average": average, "optimizer": optimizer}
    checkpoint, start, seconds, log = options.work / "checkpoint.pt", 0, 0.0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        start, seconds, log = state["step"], state["seconds"], json.loads(state["log"])
    began = time.perf_counter() - seconds
    for step in range(start, options.steps):
        rng = np.random.default_rng([options.seed, step])
        torch.manual_seed(int(rng.integers(2**31)))
        rate = min(1.0, (step + 1) / 300) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
        for group in optimizer.param_groups:
            group["lr"] = options.lr * rate
        chosen = rng.integers(len(pictures), size=options.batch)
        keep = keep_at(step, options.steps)
        loss = step_loss(model, tokenizer, pictures[chosen], [facts[i] for i in chosen], rng=rng, keep=keep)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        if (step + 1) % 250 == 0 or step + 1 == options.steps:
            score, _ = zero_shot_map(average.module.eval(), tokenizer)
            spent = time.perf_counter() - began
            log.append(
                {"step": step + 1, "loss": round(loss.item(), 3), "seconds": round(spent), "map": round(score, 4)}
            )
            print(log[-1], flush=True)
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "step": step + 1, "seconds": spent, "log": json.dumps(log)}, options.work / "next.pt")
            (options.work / "next.pt").replace(checkpoint)
    model.load_state_dict(average.module.state_dict())
    return log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="drawn pictures and checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer(options.out)
    model = build_model(tokenizer)
    log = train(model, tokenizer, options)
    model.half().save_pretrained(options.out)  # the stored weights are the ones that are scored
    score, classes = zero_shot_map(CLIPModel.from_pretrained(options.out, dtype=torch.float32).eval(), tokenizer)
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
