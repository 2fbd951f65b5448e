"""An address means the image that it can only mean, and none where it could mean two."""

from __future__ import annotations

import pytest

from weakclip.datasets.image_names import ImageNames, alike, canonical

NAMES = ("a", "d e", "sub/c", "café", "more/one", "one", "twin/x", "other/x", "50%", "Case", "case2", "CASE2")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("a.png", "a"),
        ("images/a.png", "a"),
        ("C:\\photos\\a.png", "a"),
        ("more/one.JPG", "more/one"),
        ("elsewhere/one.jpg", "one"),
        ("50%.png", "50%"),
        ("images/d%20e.png", "d e"),
        ("https://host/x/a.png?X-Sig=1.2", "a"),
        ("https://host/x/d%20e.png#top", "d e"),
        ("/data/local-files/?d=a.png", "a"),
        ("/data/local-files/?d=images/sub/c.png", "sub/c"),
        ("/data/local-files/?x=1&d=images%2Fd%20e.png", "d e"),
        ("/data/upload/1/3f2a1b9c-a.png", "a"),
        ("/data/upload/1/3f2a1b9c-d_e.png", "d e"),
        ("3f2a1b9c-c.png", "sub/c"),
        ("A.PNG", "a"),
        ("Sub/C.png", "sub/c"),
        ("c.png", "sub/c"),
        ("cafe\u0301.png", "café"),
        ("d\u202fe.png", "d e"),
        (" a.png", "a"),
        ("d_e.png", "d e"),
        ("a_png.rf.0123456789abcdef0123456789abcdef.jpg", "a"),
        ("d-e_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "d e"),
        ("case2.png", "case2"),
        ("Case2.png", None),  # as like the one as the other
        ("x.png", None),
        ("elsewhere/c.png", None),  # the folder says that it is another one
        ("b.png", None),
        ("", None),
        ("?d=", None),
        ("b/" * 1000, None),
    ],
)
def test_an_address_means_one_image_or_none(address: str, name: str | None) -> None:
    assert ImageNames(NAMES).find(address) == name


def test_letter_by_letter_goes_first() -> None:
    names = ImageNames(["3f2a1b9c-a", "a", "A", "cafe\u0301", "caf\u00e9", "x%20y", "x y"])
    for name in ("3f2a1b9c-a", "a", "A", "cafe\u0301", "caf\u00e9", "x%20y", "x y"):
        assert names.find(f"{name}.png") == name


def test_spellings() -> None:
    assert canonical("cafe\u0301") == "caf\u00e9" and canonical("a b") == "a b" != canonical("a\u00a0b")
    assert alike("\u00a0a\u202f b ") == "a b" and alike("A") == "A"
