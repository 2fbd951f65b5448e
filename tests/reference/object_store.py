"""An object store of a test, and machines with caches of their own that write there."""

from __future__ import annotations

from typing import Any

LOGIN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")


def at_the_url(store: Any, url: str) -> dict[str, bytes]:
    """The files in a folder there."""
    store.invalidate_cache()
    place = f"{url.removeprefix('s3://')}/"
    return {name.removeprefix(place): store.cat_file(name) for name in store.find(url)}
