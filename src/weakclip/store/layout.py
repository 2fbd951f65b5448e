"""Names of the folders and files of a run."""

from __future__ import annotations

from pathlib import Path

STAGE_FOLDERS = {
    "seeds": "1_seeds",
    "train": "2_train",
    "pseudo_masks": "3_pseudo_masks",
    "retrain": "4_retrain",
    "evaluate": "5_evaluate",
    "retrain_truth": "4_retrain_truth",
    "evaluate_truth": "5_evaluate_truth",
}
"""The folder of each stage, in the order in which stages run."""

CONFIG = "config.yaml"
"""In a run folder: its settings."""
MANIFEST = "manifest.json"
"""In a run folder: which stages are done, and what their results depend on."""
ERRORS = "errors.jsonl"
"""In a run folder: the files that cannot be used, a line an image."""
UNTAGGED = "untagged.txt"
"""In a run folder: the training images that are left out because nobody has tagged them, a name a line."""
VERIFIED = "verified"
"""In a run folder: masks that a person has drawn or approved, `NAME.png`."""
LOG = "log.jsonl"
"""In the folder of a stage: what it did, a line an image or a step. In a run folder: the events of all stages."""
ITEMS = "items.json"
"""In the folder of a stage whose images do not depend on each other: a digest of what each of them depends on."""

SHARDS = "shards"
"""In the folder of a stage that is made in shards: what each of them says of itself, until they are merged."""

SEED_MASKS, DENSE = "masks", "dense"
"""Folders of the stage `seeds`: seed masks with 255 between, and the most probable class everywhere."""
MASKS, CONFIDENCE = "masks", "confidence"
"""Folders of masks and of confidence maps, one PNG an image."""
STRIPS, CAPTIONS = "strips", "captions.json"
"""Folder of a stage: `NAME.jpg`, small pictures of one image side by side, and what each of them is."""
PREDICTIONS = "train_predictions"
"""Folder of the evaluation: what the run's network says of the training images, in `masks/NAME.png`."""


def strip_path(folder: Path, name: str) -> Path:
    """The strip of an image in a stage's folder."""
    return folder / STRIPS / f"{name}.jpg"
