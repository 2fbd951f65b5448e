"""Files of models in a folder or on the Hugging Face hub: the cache is asked first, the hub for what is not in it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from weakclip.errors import WeightsError, first_line
from weakclip.store.untrusted_text import one_line, parse_json
from weakclip.store.untrusted_weights import check_config

logger = logging.getLogger("weakclip")

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of the three channels, of pixels 0…1."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET: Statistics = IMAGENET_MEAN, IMAGENET_STD
"""Those of ImageNet, with which most networks are trained that say nothing else."""

STATISTICS_FILES = ("processor_config.json", "preprocessor_config.json")
"""Where transformers keeps them: since version 5 as `image_processor` in the first, which goes before the other."""

T = TypeVar("T")


def cache_first(source: str, load: Callable[[bool], T]) -> T:
    """Load a model of a folder or of the hub; one that is whole in the cache is loaded without the network.

    Args:
        source: a folder, or an id on the hub.
        load: loads it; told whether only files of this machine may be used.
    """
    try:
        return load(True)
    except WeightsError:
        raise
    except Exception:  # transformers and the hub raise many kinds for what is not in the cache
        if Path(source).is_dir():
            raise
    return load(False)


def load_pretrained(
    location: str,
    kind_of: Callable[[dict[str, Any]], Any],
    *,
    complaint: str,
    advice: str = "",
    changes: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """A network of transformers with float32 weights, from a folder or the hub; no code that comes with it is run.

    Args:
        location: the folder, or the id on the hub.
        kind_of: from the content of `config.json` to the class of transformers; it may refuse it.
        complaint: how the error begins where there is no such network.
        advice: how it ends.
        changes: what else `from_pretrained` is told.

    Returns:
        The network, and what transformers reports on its weights: `missing_keys` and others.

    Raises:
        WeightsError: no such network, one that `kind_of` refuses, or a package that it needs is missing.
    """
    from transformers import PretrainedConfig

    def load(only_here: bool) -> tuple[Any, dict[str, Any]]:
        settings = PretrainedConfig.get_config_dict(location, local_files_only=only_here)[0]
        check_config(settings)
        kind = kind_of(settings)
        with quiet_transformers():
            network, report = kind.from_pretrained(
                location,
                dtype=torch.float32,
                local_files_only=only_here,
                trust_remote_code=False,
                output_loading_info=True,
                **(changes or {}),
            )
        return network, report

    try:
        return cache_first(location, load)
    except WeightsError:
        raise
    except ImportError as error:  # as of EoMT, whose loss wants scipy, though no loss is computed here
        said = one_line(" ".join(str(error).split()))
        raise WeightsError(f"{complaint}: this network needs another package: {said}") from None
    except Exception as error:  # transformers and the hub raise many kinds; the reader needs one line
        raise WeightsError(f"{complaint}: {first_line(error)}{advice}") from None


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bar and no load report from transformers: what matters of it is checked and said in one line."""
    from transformers.utils import logging as settings

    verbosity, bar = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(verbosity)
        if bar:
            settings.enable_progress_bar()


def pixel_statistics(source: str, otherwise: Statistics) -> Statistics:
    """The pixel statistics of a model.

    Args:
        source: a folder, or an id on the hub.
        otherwise: what a model without statistics is given.

    Raises:
        WeightsError: a file that cannot be read, or other values than three numbers each.
    """
    for path in _statistics_files(source):
        settings = _settings(path)
        if settings is not None:
            return _checked(path, settings)
    return otherwise


def _statistics_files(source: str) -> list[Path]:
    """The files that are there; the hub is asked where the cache neither has one nor knows that there is none."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import get_hf_file_metadata
    from huggingface_hub.utils import EntryNotFoundError
    from transformers.utils import cached_file

    if Path(source).is_dir():
        return [path for path in (Path(source) / name for name in STATISTICS_FILES) if path.is_file()]
    cached = {name: try_to_load_from_cache(source, name) for name in STATISTICS_FILES}
    found = [Path(path) for path in cached.values() if isinstance(path, str)]
    if not found:
        for name in (name for name, path in cached.items() if path is None):
            try:
                with contextlib.suppress(EntryNotFoundError):  # the cache will note it
                    get_hf_file_metadata(hf_hub_url(source, name))  # asked once; a download would try for a minute
                fetched = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
            except Exception as error:  # the hub raises many kinds
                reason = one_line(first_line(error))
                said = "%s: %s cannot be had (%s); the usual pixel statistics are taken; HF_HUB_OFFLINE=1 asks no hub"
                logger.warning(said, source, name, reason)
                break
            found += [Path(fetched)] if fetched else []
    return found


def _settings(path: Path) -> Mapping[str, Any] | None:
    """The statements of a file about images; None where it is about something else."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: expected JSON with image_mean and image_std ({error})") from None
    if path.name == STATISTICS_FILES[0]:
        content = content.get("image_processor") if isinstance(content, dict) else None
        if content is None:
            return None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected image_mean and image_std, three numbers each; found no object")
    return content


def _checked(path: Path, settings: Mapping[str, Any]) -> Statistics:
    if settings.get("do_normalize") is False:
        return (0.0,) * 3, (1.0,) * 3
    try:
        mean, std = (tuple(map(float, settings[key])) for key in ("image_mean", "image_std"))
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: expected image_mean and image_std, three numbers each ({error!r})") from None
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise WeightsError(f"{path}: expected image_mean and image_std > 0, three numbers each; found {mean}, {std}")
    return mean, std
