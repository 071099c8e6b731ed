"""What the audit finds, and which script puts it right."""

from dataclasses import dataclass
from enum import StrEnum


class Mend(StrEnum):
    """What puts a finding right: each is one script."""

    AGENT = "repair_agent"
    DELIVERY = "repair_delivery"
    MESSAGE = "repair_message"
    COUNTER = "recount"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not add up."""

    kind: str
    id: str
    sentence: str
    mend: Mend | None = None
    """None: the ledger does not say what would be right; a person has to look."""
    agent: str = ""
    """In whose mailbox a delivery was found."""
    drift: int = 0
    """What a counter lacks; below zero: what it has too much."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes it the same finding on the next look."""
        return (self.kind, self.id, self.agent, self.drift)
