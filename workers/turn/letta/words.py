"""The server's own words, fit to be kept: short, on one line, and without the message or a key in them."""

import re

LIMIT = 500
"""Characters of a detail."""
_READ = 1_000
_WINDOW = 16
_KEY = re.compile(r"(?i)\b(?:sk|pk)-[\w*-]{4,}|\b(?:bearer|basic)\s+[\w~+/=.-]{5,}[\w~+/=-]")


def words(said: str, *hidden: str | None) -> str:
    """What was said, cut to 500 characters, with every stretch of the `hidden` texts blotted out.

    Providers quote the prompt in their errors. A stretch is 16 characters that also stand in a hidden text,
    or all of a shorter one where it stands as words of its own.
    """
    text = " ".join(said[:_READ].split())
    text = _KEY.sub("[key]", text)
    for secret in hidden:
        text = _blotted(text, " ".join((secret or "").split()))
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"


def _blotted(text: str, secret: str) -> str:
    if not secret:
        return text
    if len(secret) < _WINDOW:
        return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "[…]", text)
    marks = bytearray(len(text))
    for start in range(len(text) - _WINDOW + 1):
        if text[start : start + _WINDOW] in secret:
            marks[start : start + _WINDOW] = b"\1" * _WINDOW
    kept: list[str] = []
    for character, mark in zip(text, marks, strict=True):
        if not mark:
            kept.append(character)
        elif not kept or kept[-1] != "[…]":
            kept.append("[…]")
    return "".join(kept)
