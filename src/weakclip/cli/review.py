"""The command `weakclip review`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def review(
    run: Annotated[Path, typer.Argument(help="A run folder with masks in it.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    host: Annotated[str, typer.Option(help="Listen on another address than this machine's own.")] = "127.0.0.1",
) -> None:
    """Look at the masks of a run in a browser and mark them good, bad or relabelled; `run --redo` uses the marks."""
    from weakclip.review.guard import is_loopback
    from weakclip.review.serving import serve

    if not is_loopback(host):
        typer.echo(f"weakclip: whoever reaches {host} over the network can see the images and mark them", err=True)

    def announce(address: str) -> None:
        typer.echo(f"review: {address} (Ctrl-C ends it)")
        if open_:
            typer.launch(address)

    serve(run, announce=announce, port=port, host=host)
