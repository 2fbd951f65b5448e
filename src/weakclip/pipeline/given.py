"""Objects that a caller gives a run in place of what its settings name: data sets, an encoder, a seed method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

from torch import nn

from weakclip.clip import Encoder, check_encoder
from weakclip.clip.frozen_encoder import weights_fingerprint
from weakclip.config import CAMSeeds, ClipSettings, OwnData, OwnSeeds, RunConfig
from weakclip.datasets import ImageLabelDataset
from weakclip.errors import ConfigError
from weakclip.pipeline.data import digest_of
from weakclip.seeds import SeedMethod
from weakclip.store.untrusted_text import one_line


@dataclass(frozen=True)
class Given:
    """Objects that a caller gives.

    Args:
        clip: the encoder; None for the one that the settings name.
        seed_method: what makes class activation maps; None for the method that the settings name.
        dataset: the training split; None for that of the settings.
        val_dataset: the validation split, read where `dataset` is given; None for none.

    Raises:
        EncoderError: `clip` is no `Encoder`.
        ConfigError: `seed_method` has no `cam`; a data set is no `ImageLabelDataset`, or a validation split comes
            without a training split, has its name, or has other classes.
    """

    clip: Encoder | None = None
    seed_method: SeedMethod | None = None
    dataset: ImageLabelDataset | None = None
    val_dataset: ImageLabelDataset | None = None

    def __post_init__(self) -> None:
        if self.clip is not None:
            check_encoder(self.clip)
        if self.seed_method is not None and not callable(getattr(self.seed_method, "cam", None)):
            raise ConfigError(
                f"seed_method: an object with cam(sample) expected; found {type(self.seed_method).__name__}"
            )
        for name in ("dataset", "val_dataset"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, ImageLabelDataset)):
                raise ConfigError(f"{name}: an ImageLabelDataset expected; found {type(value).__name__}")
        if self.val_dataset is not None:
            self._check_val(self.val_dataset)

    def _check_val(self, val: ImageLabelDataset) -> None:
        train = self.dataset
        if train is None:
            raise ConfigError("val_dataset: given without dataset; give the training split, too")
        if val.split == train.split:
            raise ConfigError(f"val_dataset: its split is called {val.split!r}, as that of dataset; name it otherwise")
        if val.class_set != train.class_set:
            raise ConfigError(f"val_dataset: has the classes {val.class_set.names}, dataset {train.class_set.names}")

    def settings(self, config: RunConfig) -> RunConfig:
        """The settings of a run with these objects; they name what is given, so that the run folder tells the truth."""
        if self.clip is not None:
            config = dataclasses.replace(config, clip=ClipSettings(source=one_line(self.clip.source)))
        if self.seed_method is not None:
            seeds = config.seeds
            own = OwnSeeds(affinity=seeds.affinity, masks=seeds.masks) if isinstance(seeds, CAMSeeds) else OwnSeeds()
            config = dataclasses.replace(config, seeds=own)
        if self.dataset is not None:
            data = OwnData(
                train_split=self.dataset.split,
                val_split=None if self.val_dataset is None else self.val_dataset.split,
                verified=config.data.verified,
                marks=config.data.marks,
            )
            config = dataclasses.replace(config, data=data)
        return config

    @property
    def seed_method_fingerprint(self) -> str:
        """Digest of the seed method: its class, and its `fingerprint()` where it has one; empty where none is given."""
        return "" if self.seed_method is None else digest_of(_class_and_fingerprint(self.seed_method))


def dataset_digest(dataset: ImageLabelDataset) -> str:
    """Digest of a given data set: its labels, its class, and its `fingerprint()` where it has one."""
    labels = (str(dataset.labels(index)) for index in range(len(dataset)))
    return digest_of([*_class_and_fingerprint(dataset), *labels])


def _class_and_fingerprint(given: object) -> list[str]:
    own = getattr(given, "fingerprint", None)
    return [type(given).__module__, type(given).__qualname__, str(own()) if callable(own) else ""]


def encoder_digest(encoder: Encoder) -> str:
    """Digest of all of an encoder that its module's state and its numbers tell, and of its own fingerprint."""
    numbers = (
        *(tuple(encoder.layer_widths), tuple(encoder.layer_scales), encoder.embed_dim, encoder.prompt_position),
        *(getattr(encoder, name, None) for name in ("tap_layers", "position_interpolation", "partial_patches")),
    )
    return digest_of([encoder.fingerprint(), weights_fingerprint(cast(nn.Module, encoder)), repr(numbers)])
