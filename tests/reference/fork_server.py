"""A process that has imported everything once and forks a real `weakclip` command for every line that it is told.

    {"do": "start", "argv": [...], "log": PATH, "capabilities": false, "environment": {…}} → {"pid": N}
    {"do": "wait", "pid": N}                                          → {"code": N}, negative for a signal

It has used no thread of OpenMP or numba before it forks, which would be unsafe.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForSemanticSegmentation, CLIPModel, CLIPTokenizerFast  # noqa: F401

from weakclip import cli
from weakclip.clip import load_clip
from weakclip.config import load_config
from weakclip.crf import VOC_CRF, dense_crf
from weakclip.datasets.classes import VOC12
from weakclip.pipeline import space
from weakclip.report import page
from weakclip.segmenters.segmenter import SMALL, build_segmenter
from weakclip.store import mirror, outputs
from weakclip.training import launch
from weakclip.training.tensorboard import open_event_file

DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2


def main() -> None:
    torch.set_num_threads(1)
    warm_up()
    image, probs = np.zeros((8, 8, 3), np.uint8), np.full((2, 8, 8), 0.5, np.float32)
    dense_crf(image, probs, VOC_CRF)  # its compiled code is loaded once for all children
    assert threading.active_count() == 1
    space.free_bytes = lambda folder: 2**60  # a disk fills up on the way, too: that is what these commands are for
    outputs.SENT_EVERY, mirror.SETTLED = 0.05, 2 * 10**7
    launch.START_METHOD = "fork"  # processes of a command have these imports, too
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {"pid": start(asked)} if asked["do"] == "start" else {"code": wait(asked["pid"])}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def warm_up() -> None:
    """What every command would import, build and compile once more for itself."""
    load_config("demo")
    load_clip("demo")
    build_segmenter(SMALL, VOC12)
    page._template()
    Image.init()
    with tempfile.TemporaryDirectory() as folder:
        open_event_file(Path(folder) / "log.jsonl", ['{"step": 1}'])


def start(asked: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.environ.update(asked["environment"])
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if not asked["capabilities"]:
            obey_permissions()
        sys.argv = ["weakclip", *asked["argv"]]
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def obey_permissions() -> None:
    """Give up root's capabilities to pass over the permissions of files; nothing to do for other users."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for field in (0, 1):  # effective and permitted, of the first 32 capabilities
        data[field] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
