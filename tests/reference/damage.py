"""What the tests of robustness share: real commands that are killed, and what must hold in a folder at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from safetensors import safe_open

import weakclip

SERVER = Path(__file__).with_name("fork_server.py")
TIMES = ("seconds", "images_per_second")
"""What a metrics file says about the machine and not about the result."""


class Commands:
    """Starts `weakclip` commands as processes of their own, without the seconds that its imports take."""

    def __init__(self, logs: Path) -> None:
        self.logs, self.count = logs, 0
        environment = {**os.environ, "PYTHONPATH": str(Path(weakclip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **asked: Any) -> Any:
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(
        self, *argv: str | Path, capabilities: bool = True, environment: Mapping[str, str] | None = None
    ) -> Command:
        self.count += 1
        log = self.logs / f"command{self.count}.log"
        log.touch()
        words, added = [*map(str, argv)], dict(environment or {})
        answer = self.ask(do="start", argv=words, log=str(log), capabilities=capabilities, environment=added)
        return Command(self, answer["pid"], log)

    def run(
        self, *argv: str | Path, capabilities: bool = True, environment: Mapping[str, str] | None = None
    ) -> Command:
        """Start a command and wait for its end."""
        command = self.start(*argv, capabilities=capabilities, environment=environment)
        command.wait()
        return command

    def whole(self, config: Path, folder: Path) -> Path:
        """The folder of a run that nobody disturbed, made at the first call; to be read only."""
        if not folder.exists():
            part = folder.with_suffix(".part")
            done = self.run("run", config, "--out", part)
            assert done.code == 0, done.said()
            part.rename(folder)  # whole, or made anew by the next test
        return folder

    def close(self) -> None:
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait(30)


class Command:
    """A running or finished command."""

    def __init__(self, commands: Commands, pid: int, log: Path) -> None:
        self.commands, self.pid, self.log, self.code = commands, pid, log, None

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> int:
        if self.code is None:
            self.code = self.commands.ask(do="wait", pid=self.pid)["code"]
        return self.code

    def signal(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def kill(self) -> int:
        self.signal()
        return self.wait()

    def alive(self) -> bool:
        """Whether it still runs; one that has ended is a zombie until it is waited for."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    def until(self, words: str, seconds: float = 60) -> bool:
        """Wait until the command has said these words; False where it ends without."""
        end = time.monotonic() + seconds
        while words not in self.said():
            if not self.alive():
                return words in self.said()
            assert time.monotonic() < end, f"{words!r} was never said:\n{self.said()}"
            time.sleep(0.002)
        return True


def broken_files(folder: Path) -> list[str]:
    """Files under their final name that are not whole."""
    return [f"{path}: {error}" for path in sorted(folder.rglob("*")) if (error := _error(path, folder))]


def _error(path: Path, folder: Path) -> str:
    if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
        return ""
    try:
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            for line in path.read_text().splitlines():
                json.loads(line)
        elif path.suffix == ".yaml":
            assert isinstance(yaml.safe_load(path.read_text()), dict)
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        elif path.name.startswith("events.out.tfevents."):
            assert not read_records(path.read_bytes())
        else:
            return "a file of no known kind"
    except Exception as error:  # whatever a reader raises
        return repr(error)
    return ""


def read_records(content: bytes) -> bytes:
    """What is left of an event file behind its last whole record: length (8 bytes), its sum (4), data, its sum (4)."""
    while len(content) >= 12 and len(content) >= (size := 16 + int.from_bytes(content[:8], "little")):
        content = content[size:]
    return content


def results(folder: Path) -> dict[str, Any]:
    """What a run is for, byte by byte: masks, weights, checkpoints; and metrics, without times."""
    files = [*folder.rglob("*.png"), *folder.rglob("*.safetensors"), *folder.rglob("pictures.json")]
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    for path in folder.rglob("metrics.json"):
        values = json.loads(path.read_text())
        found[str(path.relative_to(folder))] = {key: value for key, value in values.items() if key not in TIMES}
    return found


def strays(folder: Path) -> list[str]:
    """Hidden files: temporary ones, and the lock."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]
