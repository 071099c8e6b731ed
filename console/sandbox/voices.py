"""The sandbox's voices: deterministic answers that use what they are given, so that a reader sees text move.

A researcher turns a topic into numbered findings, a writer turns findings into a titled draft that quotes
them, an editor approves or sends back. Everybody else echoes. No language model is asked; the health endpoint
and a response header say so.
"""

import re

from console.sandbox.directives import Script, echo, plain
from console.sandbox.nouns import Agent

ROLES = ("researcher", "writer", "editor")
_FINDING = re.compile(r"^\s*(?:finding\s*)?(\d+)[.):]\s+(.+)$", re.MULTILINE | re.IGNORECASE)
_TITLE = re.compile(r"^\s*#\s+(.+)$", re.MULTILINE)
_TOPIC = re.compile(r"^\s*(?:topic|brief|subject|goal|title)\s*[:=]\s*(.+)$", re.MULTILINE | re.IGNORECASE)
_TAKEAWAY = re.compile(r"^\s*Takeaway:", re.MULTILINE)
_ASKED_AGAIN = re.compile(r"\bREVISE\b|\btakeaway\b")
_ANGLES = (
    "who uses {0} today and what they expect from it",
    "where {0} breaks first, and what that costs",
    "what is known to help with {0}",
)


def role_of(agent: Agent) -> str | None:
    """The role from tag `role:x`, metadata `role`, or the name."""
    for tag in agent.tags:
        if tag.startswith("role:") and tag[5:] in ROLES:
            return tag[5:]
    declared = (agent.metadata or {}).get("role")
    if isinstance(declared, str) and declared in ROLES:
        return declared
    lowered = agent.name.lower()
    return next((role for role in ROLES if role in lowered), None)


def answer(agent: Agent, script: Script) -> str:
    """What the agent says to this text."""
    if script.say:
        return script.say
    match role_of(agent):
        case "researcher":
            return research(plain(script.text))
        case "writer":
            return write(plain(script.text))
        case "editor":
            return edit(plain(script.text))
        case _:
            return echo(script.text)


def research(text: str) -> str:
    """Three numbered findings about the topic."""
    topic = _topic(text)
    lines = [f"{number}. On {topic}: {angle.format(topic)}." for number, angle in enumerate(_ANGLES, 1)]
    return "\n".join([f"Findings on {topic}", *lines])


def write(text: str) -> str:
    """A titled draft that quotes the findings; the closing line comes only when an editor asked for it."""
    findings = [found.strip().rstrip(".") for _, found in _FINDING.findall(text)]
    topic = _topic(text)
    if findings and findings[0].startswith("On ") and ":" in findings[0]:
        topic = findings[0][3:].split(":", 1)[0].strip()
    quoted = findings or [topic]
    body = [f'We found: "{finding}".' for finding in quoted[:3]]
    draft = [f"# {topic.capitalize()}: what we know", "", *body]
    if _ASKED_AGAIN.search(text):
        draft += ["", f"Takeaway: {quoted[0]}."]
    return "\n".join(draft)


def edit(text: str) -> str:
    """APPROVED with the edited text, or REVISE with what is missing: a draft must end with a takeaway."""
    start = _TITLE.search(text)
    draft = text[start.start() :].strip() if start else text.strip()
    if _TAKEAWAY.search(draft):
        return f"APPROVED\n\n{draft}\n\nEdited for length and tone."
    return f'REVISE\n\nThe draft lacks its closing line. Add one that begins with "Takeaway:".\n\n{draft}'


def _topic(text: str) -> str:
    declared = _TOPIC.search(text)
    line = declared.group(1) if declared else next((line for line in text.splitlines() if line.strip()), "nothing")
    return line.strip().strip("#").strip().rstrip(".")[:120] or "nothing"
