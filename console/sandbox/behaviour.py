"""What an agent, or the whole server, does wrong: switchable faults, each with how often it happens."""

from dataclasses import dataclass, fields

_ALWAYS = -1
_FLAGS = frozenset({"hang", "drop", "reset_before", "reset_after", "orphan", "busy", "broken_history"})


@dataclass(slots=True)
class Behaviour:
    """Faults of one agent or of all. In a count, -1 means every time, 0 never, n the next n times.

    The flags `hang`, `drop`, `reset_before`, `reset_after`, `orphan`, `busy` and `broken_history` set to true mean
    "every time".
    """

    # how slow: each call of the model, and each answer after the turn is over (a stream: before its start)
    latency_seconds: float = 0.0
    slow_first_byte_seconds: float = 0.0
    # a failing server: `letta` refuses before the turn with body `detail`, `llm` fails inside it with body
    # `error.type`; the server asks the model three times on 408, 409, 429 and 5xx, and each try uses one up
    fail_status: int = 0
    fail_times: int = _ALWAYS
    fail_where: str = "letta"
    fail_step: int = 1
    retry_after_seconds: float | None = None
    # 409 CONVERSATION_BUSY, whatever the lock
    busy_times: int = 0
    # the model never answers; or the server gives up on it with 504
    hang_times: int = 0
    llm_timeout_times: int = 0
    # the connection: reset before the turn begins, reset once it began, dropped instead of its answer
    reset_before_times: int = 0
    reset_after_times: int = 0
    drop_times: int = 0
    # the server dies under the run, in this step: nothing more lands, no lock is freed, the run stays open
    orphan_times: int = 0
    orphan_step: int = 1
    # what the agent has behind it is malformed: the model refuses it with 400, whatever the message
    broken_history_times: int = 0
    # so many turns at once, the rest waits inside; 0 is no limit
    max_concurrent: int = 0

    def happens(self, fault: str) -> bool:
        """Whether the fault strikes this time; uses one up."""
        left: int = getattr(self, f"{fault}_times")
        if left > 0:
            setattr(self, f"{fault}_times", left - 1)
        return left != 0


def parse_behaviour(body: dict[str, object]) -> Behaviour:
    """Read the admin API's body; an unknown key is an error, or a typing slip would pass as "no fault"."""
    known = {item.name for item in fields(Behaviour)}
    values: dict[str, object] = {}
    for key, value in body.items():
        if key in _FLAGS and isinstance(value, bool):
            values[f"{key}_times"] = _ALWAYS if value else 0
        elif key in known:
            values[key] = value
        else:
            raise ValueError(f"unknown behaviour {key!r}; known: {', '.join(sorted(known | _FLAGS))}")
    if values.get("fail_where", "letta") not in {"letta", "llm"}:
        raise ValueError("fail_where is 'letta' or 'llm'")
    behaviour = Behaviour()
    for key, value in values.items():
        wanted = getattr(behaviour, key)
        if not isinstance(value, int | float | type(wanted)) or isinstance(value, bool):
            raise ValueError(f"{key} has the wrong type")  # noqa: TRY004 - a bad value to its caller
        setattr(behaviour, key, value)
    return behaviour
