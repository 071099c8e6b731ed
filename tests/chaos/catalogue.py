"""Every fault, in the order of the table."""

from tests.chaos.faults import deaths, guards, letta, redis, soak
from tests.chaos.scene import Fault, Scale

ALL: list[Fault] = sorted(
    [*deaths.FAULTS, *redis.FAULTS, *letta.FAULTS, *guards.FAULTS, *soak.FAULTS], key=lambda fault: fault.name
)


ELSEWHERE: dict[str, tuple[str, str]] = {
    "F08": (
        "Redis without AOF is refused, exit code 78",
        "tests/path/test_processes.py::test_services_refuse_a_redis_that_loses_messages",
    ),
    "F20": ("host clocks that are minutes off", "tests/redis/mailbox/test_skew.py"),
    "F21": ("one publish sent again and again", "tests/redis/broker/test_publish.py"),
    "F22": ("a message that kills each worker that takes it", "tests/redis/broker/test_sweep.py"),
    "F23": ("messages that are too large", "tests/unit/workers/bus/test_door.py"),
    "F36": ("messages that expire, wherever they are", "tests/redis/broker/test_take.py"),
    "F37 tenant": ("a tenant is deleted under load", "tests/path/test_leaving.py"),
}
"""Faults that tests of their own hold: what, and where."""


def chosen(scale: Scale, only: str, *, whole: bool = False) -> list[Fault]:
    """Those of a scale, all of them (`whole`), or those that are named; `F01` names all that begin so.

    Raises:
        ValueError: there is none of such a name.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if not any(_is_named(fault, name) for fault in ALL):
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(fault.name for fault in ALL)}")
    if names:
        return [fault for fault in ALL if any(_is_named(fault, name) for name in names)]
    return [fault for fault in ALL if whole or (fault.quick if scale.quick else fault.full)]


def _is_named(fault: Fault, name: str) -> bool:
    return fault.name == name or fault.name.startswith(f"{name} ")
