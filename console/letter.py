"""One dead letter as people and machines see it."""

import base64

from rich.text import Text

from console.output import out, pairs, safe, state_text
from console.times import local_iso, relative
from console.words import in_words
from schemas.address import in_short
from schemas.envelope import Envelope
from workers.bus.letters import Addressed

SHOWN_CHARACTERS = 4_000


def raw_document(raw: bytes | None) -> dict[str, str | None]:
    """What came, as text where it is text, and byte for byte in any case."""
    if raw is None:
        return {"raw": None, "raw_base64": None}
    try:
        text: str | None = raw.decode()
    except UnicodeDecodeError:
        text = None
    return {"raw": text, "raw_base64": base64.b64encode(raw).decode()}


def show_letter(one: Addressed, envelope: Envelope | None, now_ms: int) -> None:
    console, letter = out(), one.letter
    rows: list[tuple[str, str | Text]] = [
        ("dead letter", Text(safe(one.id), "bold")),
        ("state", state_text(letter.state)),
        ("cause", f"{letter.cause}: {in_words(letter.state, letter.cause)}"),
        ("attempts", str(letter.attempts)),
        ("last error", letter.detail or "none was told"),
        ("since", f"{local_iso(letter.at_ms)}  ({relative(letter.at_ms, now_ms)})"),
    ]
    if one.agent:
        rows.append(("agent", one.agent))
    if envelope is not None:
        rows += [("from", envelope.sender), ("to", in_short(envelope.to))]
    console.print(pairs(rows))
    said = envelope.content if envelope else (letter.raw or b"").decode(errors="backslashreplace")
    console.print(Text("\ncontent" if envelope else "\nas it came", style="dim"))
    for line in safe(said[:SHOWN_CHARACTERS]).splitlines():
        console.print(Text(f"  │ {line}"), soft_wrap=True)
    if len(said) > SHOWN_CHARACTERS:
        console.print(Text(f"  … {len(said) - SHOWN_CHARACTERS} more characters; --json has all", style="dim"))
