"""Every box of the method's figure, left out in turn: what is each worth?

| left out | what stands in |
|---|---|
| learnable prompt | the plain class words (prompt of length 0) |
| pyramid adapter | the same layers, normalised and resized without weights (`ResizedPyramid`) |
| co-attention | class and pixel embeddings as CLIP gives them (`PlainMatching`) |
| text guidance | a decoder that does not see the match map (`UnguidedDecoder`); the matching loss stays |
| boundary loss, matching loss | nothing: the term is not in the sum |
| CRF of the masks | nothing: the likeliest class at every pixel; the training is that of "everything" |
| seeds in the masks | nothing, where the configuration has a share of them; the training is that of "everything" |
| proposals | nothing, where the configuration has any; the training is that of "everything" |
| saliency | nothing, where the configuration has any maps; the training is that of "everything" |
| region bank | nothing; where the configuration has none, its row is one with a bank of the frozen encoder's regions |
| second encoder of the seeds | nothing: its row has the seeds' own score, beside the row "seeds"; nothing is trained |
| filled outlier tokens | nothing, where the seeds fill them: the seeds' own score, as for the second encoder |

Where the configuration has no boundary loss, its row is one with the published term instead.

With `steps`, "everything" and the row of the boundary loss are also trained for other numbers of steps: the term can
pay in one schedule and cost in another.

A part is exchanged in a finished model, so that the others begin with the same weights as in "everything" (but beside a
prompt of length 0, after which torch draws other numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from weakclip.clip import Encoder
from weakclip.config import AnySeeds, ClipGradCAMSeeds, PatchTextSeeds, RunConfig
from weakclip.crf import LOSS_CRF
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError
from weakclip.inference.region_judge import RegionBankSettings
from weakclip.modeling import (
    CoAttention,
    ModelSettings,
    PlainMatching,
    PyramidAdapter,
    ResizedPyramid,
    TextGuidedDecoder,
    UnguidedDecoder,
    WeakCLIP,
)
from weakclip.seeds.second_encoder import AttentionSeeds
from weakclip.study.results import VariantStudy
from weakclip.study.variants import Variant, study_variants

EVERYTHING = "everything"


def study_parts(config: RunConfig, out: Path | str, *, seeds: int = 3, steps: Sequence[int] = ()) -> VariantStudy:
    """Measures the gain of every part of the model, of the loss and of the masks.

    Args:
        config: as of `study_variants`.
        out: as of `study_variants`.
        seeds: how many random seeds.
        steps: other lengths of WeakCLIP's training, in which the boundary loss is studied too.

    Raises:
        ConfigError: a length below 1, or one that is asked for twice.
        WeakCLIPError: as `study_variants`.
    """
    variants = [*part_variants(config), *schedule_variants(config, steps)]
    return study_variants(config, out, "parts of the method", variants, seeds=seeds)


def part_variants(config: RunConfig) -> list[Variant]:
    """The whole method, and without each of its parts."""
    plain_words = replace(config, model=replace(config.model, prompt_length=0))
    no_matching = replace(config.loss, matching_weight=0.0)
    no_crf = replace(config, pseudo_masks=replace(config.pseudo_masks, crf=None))
    return [
        Variant(name=EVERYTHING, config=config),
        Variant(name="without_learnable_prompt", config=plain_words),
        Variant(name="without_adapter", config=config, compose=without_adapter),
        Variant(name="without_co_attention", config=config, compose=without_co_attention),
        Variant(name="without_text_guidance", config=config, compose=without_text_guidance),
        boundary_variant(config),
        Variant(name="without_matching_loss", config=replace(config, loss=no_matching)),
        Variant(name="without_CRF_of_the_masks", config=no_crf, trained_as=EVERYTHING),
        *mask_variants(config),
        *seed_variants(config),
    ]


def seed_variants(config: RunConfig) -> list[Variant]:
    """The seeds without what the configuration gives them: a second encoder, filled outlier tokens."""
    seeds, found = config.seeds, dict[str, AnySeeds]()
    if isinstance(seeds, AttentionSeeds):
        found["seeds_without_second_encoder"] = replace(seeds, affinity_encoder=None)
    if isinstance(seeds, PatchTextSeeds):
        left = replace(seeds.patch_text, fill_outliers=False)
        found["seeds_without_filled_outliers"] = replace(seeds, patch_text=left)
    if isinstance(seeds, ClipGradCAMSeeds):
        found["seeds_without_filled_outliers"] = replace(seeds, gradcam=replace(seeds.gradcam, fill_outliers=False))
    return [
        Variant(name=name, config=replace(config, seeds=each), seeds_only=True)
        for name, each in found.items()
        if each != seeds
    ]


def mask_variants(config: RunConfig) -> list[Variant]:
    """The whole method's masks without seeds in them, proposals, saliency maps or region bank, or with a bank where it
    has none."""
    masks = config.pseudo_masks
    found = {"without_seeds_in_the_masks": replace(masks, seed_share=0.0)} if masks.seed_share else {}
    if masks.proposals is not None:
        found["without_proposals"] = replace(masks, proposals=None)
    if masks.saliency is not None:
        found["without_saliency"] = replace(masks, saliency=None)
    if masks.region_bank is None:
        found["with_region_bank"] = replace(masks, region_bank=RegionBankSettings())
    else:
        found["without_region_bank"] = replace(masks, region_bank=None)
    return [
        Variant(name=name, config=replace(config, pseudo_masks=each), trained_as=EVERYTHING)
        for name, each in found.items()
    ]


def boundary_variant(config: RunConfig) -> Variant:
    """The whole method without the boundary loss, or with the published one where the configuration has none."""
    name, crf = ("without", None) if config.loss.crf is not None else ("with", LOSS_CRF)
    return Variant(name=f"{name}_boundary_loss", config=replace(config, loss=replace(config.loss, crf=crf)))


def schedule_variants(config: RunConfig, steps: Sequence[int]) -> list[Variant]:
    """The whole method and `boundary_variant`, trained for other numbers of steps.

    The configuration's own length is passed over, for it is among `part_variants`.

    Raises:
        ConfigError: a length below 1.
    """
    variants = []
    for length in steps:
        if length != config.train.steps:
            for each in (Variant(name=EVERYTHING, config=config), boundary_variant(config)):
                variants.append(
                    replace(each, name=f"{each.name}_{length}_steps", config=of_length(each.config, length))
                )
    return variants


def of_length(config: RunConfig, steps: int) -> RunConfig:
    """The same run with `steps` steps of WeakCLIP's training, and as large a share of them for the warm-up.

    Raises:
        ConfigError: fewer than 1.

    >>> from weakclip.config import load_config
    >>> train = of_length(load_config("voc12"), 1000).train
    >>> train.steps, train.warmup_steps                                   # 1,500 of 20,000
    (1000, 75)
    """
    if steps < 1:
        raise ConfigError(f"steps: at least 1 expected; found {steps}")
    warmup = round(config.train.warmup_steps * steps / config.train.steps)
    return replace(config, train=replace(config.train, steps=steps, warmup_steps=warmup))


def without_adapter(settings: ModelSettings, clip: Encoder, class_set: ClassSet) -> WeakCLIP:
    """WeakCLIP whose decoder reads the layers of the image tower as they are, resized."""
    return _recomposed(settings.build(clip, class_set), pyramid_adapter=ResizedPyramid(clip.layer_scales))


def without_co_attention(settings: ModelSettings, clip: Encoder, class_set: ClassSet) -> WeakCLIP:
    """WeakCLIP that compares pixels and classes as CLIP gives them."""
    return _recomposed(settings.build(clip, class_set), co_attention=PlainMatching())


def without_text_guidance(settings: ModelSettings, clip: Encoder, class_set: ClassSet) -> WeakCLIP:
    """WeakCLIP whose decoder does not see the match map."""
    channels, dropout = settings.decoder_channels, settings.dropout
    whole = settings.build(clip, class_set)
    decoder = UnguidedDecoder(clip.layer_widths, class_set.num_classes, channels=channels, dropout=dropout)
    return _recomposed(whole, decoder=decoder.to(clip.device))


def _recomposed(
    whole: WeakCLIP,
    *,
    pyramid_adapter: PyramidAdapter | ResizedPyramid | None = None,
    co_attention: CoAttention | PlainMatching | None = None,
    decoder: TextGuidedDecoder | UnguidedDecoder | None = None,
) -> WeakCLIP:
    """The parts of a finished model, some of them exchanged."""
    return WeakCLIP(
        clip=whole.clip,
        class_set=whole.class_set,
        prompt=whole.prompt,
        pyramid_adapter=pyramid_adapter or whole.pyramid_adapter,
        co_attention=co_attention or whole.co_attention,
        decoder=decoder or whole.decoder,
    )
