"""The directives inside a message that steer a turn: the same ones the real server's scripted model obeys.

[[delay 2]] [[status 429]] [[status 500 x2]] [[hang]] [[drop]] [[tool NAME {json}]] [[say TEXT]]
"""

import hashlib
import re
from dataclasses import dataclass, field

_DIRECTIVE = re.compile(r"\[\[(\w+)\s*(.*?)\]\]", re.DOTALL)
DROPPED = 0


@dataclass(slots=True)
class Script:
    """What a text asks of the model."""

    text: str
    delay_seconds: float = 0.0
    status: int | None = None
    status_times: int | None = None
    hang: bool = False
    tools: list[tuple[str, str]] = field(default_factory=list)
    say: str | None = None


def read_script(text: str) -> Script:
    """Parse the directives; a text without any costs one substring search."""
    script = Script(text)
    if "[[" not in text:
        return script
    for name, raw in _DIRECTIVE.findall(text):
        argument = raw.strip()
        match name:
            case "delay":
                script.delay_seconds = float(argument)
            case "status":
                code, _, times = argument.partition(" x")
                script.status, script.status_times = int(code), int(times) if times else None
            case "drop":
                script.status, script.status_times = DROPPED, None
            case "hang":
                script.hang = True
            case "say":
                script.say = argument
            case "tool":
                tool, _, arguments = argument.partition(" ")
                script.tools.append((tool, arguments.strip() or "{}"))
            case _:
                pass
    return script


def plain(text: str) -> str:
    """The text without directives."""
    return _DIRECTIVE.sub("", text).strip() if "[[" in text else text.strip()


def echo(text: str) -> str:
    """The answer of an agent without a voice: the head of what it was told, and a digest of all of it."""
    return f"echo:{plain(text)[:80]}#{hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:8]}"
