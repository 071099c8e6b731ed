"""What a send to many would take: time at the present limits, tokens by the turns that were lately run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.context import Context
from schemas.delivery import State
from schemas.receipt import DeliveryReceipt
from schemas.tenant import Limits
from workers.broker.client import Client
from workers.bus import listing

SAMPLE = 50
CHARACTERS_A_TOKEN = 4
"""The usual rule of thumb for English text; used only while there is no turn to go by."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long it takes and what it costs, both roughly."""

    seconds: float
    tokens: int
    turns: int
    """By how many turns of the tenant this is judged; 0: by the limits and the length of the text alone."""


async def estimate(context: Context, client: Client, limits: Limits, *, recipients: int, content: str) -> Estimate:
    """For so many recipients of one text, beside nothing else."""

    def has_replied(one: listing.Listed) -> bool:
        return any(delivery.state is State.DELIVERED for delivery in one.receipt.deliveries)

    found = await listing.messages(context, client, fits=has_replied, limit=SAMPLE, looked_at=4 * SAMPLE)
    turns = [each for one in found for each in one.receipt.deliveries if each.state is State.DELIVERED]
    return judged_by(turns, limits, recipients=recipients, content=content)


def judged_by(turns: Sequence[DeliveryReceipt], limits: Limits, *, recipients: int, content: str) -> Estimate:
    """The slower of the two bounds: turns a minute, and turns at once, each as long as lately."""
    lengths = [(one.read_at_ms - one.delivered_at_ms) / 1000 for one in turns if one.read_at_ms and one.delivered_at_ms]
    length = sum(lengths) / len(lengths) if lengths else 0.0
    counted = [one.total_tokens for one in turns if one.total_tokens]
    a_turn = sum(counted) / len(counted) if counted else len(content) / CHARACTERS_A_TOKEN
    whole_windows = (recipients - 1) // limits.per_minute * 60.0
    in_turns = math.ceil(recipients / limits.in_flight) * length
    return Estimate(max(whole_windows, in_turns), round(a_turn * recipients), len(turns))
