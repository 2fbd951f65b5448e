"""`weakclip tag`: from a folder of untagged images and some class names to a table of proposed labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weakclip.config.clip_settings import ClipSettings
from weakclip.datasets.class_files import CLASS_FILE, class_set_of_names, read_class_file
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.folder_labels import label_table
from weakclip.datasets.image_folder import ImageFolder
from weakclip.errors import ConfigError
from weakclip.store.remote import file_at

if TYPE_CHECKING:  # a wrong path is told before torch is imported
    from weakclip.tools.tag.table import Tagging


@dataclass(frozen=True, kw_only=True)
class TagRequest:
    """The arguments of `weakclip tag`.

    Args:
        folder: a data set's folder; the images are in `images/` where there is one, otherwise anywhere below.
        out: the table, or its URL.
        names: the classes by their names; or, where there are none, from a class file.
        class_file: a class file; None takes `classes.yaml` in the folder.
        clip: hub id, folder, OpenAI archive, "demo", or `python:MODULE:FUNCTION`, which runs code; None takes the
            default of configurations.
        threshold: a class is proposed from this score on, 0…1.
        device: "auto", or a torch device name.
        overwrite: whether a table that is there already is replaced.
        shard: `I/N`, or empty for all images.
    """

    folder: Path
    out: Path | str
    names: tuple[str, ...] = ()
    class_file: Path | None = None
    clip: str | None = None
    threshold: float = 0.05
    device: str = "auto"
    overwrite: bool = False
    shard: str = ""


def tag_folder(request: TagRequest) -> Tagging | None:
    """Propose labels for every image of a folder; companions (`--devices`, `torchrun`) share the images.

    Returns:
        The labels; None of a shard.

    Raises:
        ConfigError: no classes, a shard that is none, or a table that is there already: labels that somebody corrected
            are never lost.
        DataError: no images, or a class file with mistakes.
        WeightsError: no such CLIP.
        EncoderError: an encoder that cannot tag.
        WeakCLIPError: as `write_labels`.
    """
    class_set = _class_set(request)
    images = ImageFolder(request.folder)
    out = file_at(request.out)
    if out.exists() and not request.overwrite:
        raise ConfigError(f"{request.out}: is there already; --overwrite replaces it, --out takes another name")
    if out.parent == request.folder and label_table(request.folder) not in (None, out):
        raise ConfigError(f"{label_table(request.folder)}: has labels already; --out names a table elsewhere")
    from weakclip.clip import load_encoder
    from weakclip.pipeline.context import usable_device
    from weakclip.store.share import Shard, sharing
    from weakclip.tools.tag.table import write_labels
    from weakclip.tools.tag.zero_shot import TagSettings
    from weakclip.training.processes import open_processes

    settings = TagSettings(threshold=request.threshold)
    processes = open_processes(usable_device(request.device))
    with sharing(Shard.read(request.shard, Path(request.out).parent) if request.shard else processes):
        clip = load_encoder(request.clip or ClipSettings().source, device=processes.device)
        made = write_labels(images, request.out, class_set, clip, settings)
        processes.wait()
        return made


def _class_set(request: TagRequest) -> ClassSet:
    own = request.folder / CLASS_FILE
    file = request.class_file or (own if own.is_file() else None)
    if file is not None and request.names:
        raise ConfigError(f"{file}: names the classes already; leave --classes out, or change that file")
    if file is not None:
        return read_class_file(file).class_set
    if not request.names:
        raise ConfigError(f"which classes? --classes cat,dog names them; or write {own}")
    return class_set_of_names(dict.fromkeys(request.names))
