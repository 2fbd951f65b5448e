"""The command line: one function a command. Heavy imports stand inside the commands, so that `--help` is quick."""

from weakclip.cli.app import main

__all__ = ["main"]
