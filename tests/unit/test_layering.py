"""Imports go one way: DESIGN's table, with the reason for each line, over the source as it stands."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "workers", "orchestrator", "console", "bench")

FLOOR = (
    "workers.errors",
    "workers.clock",
    "workers.ids",
    "workers.backoff",
    "workers.tasks",
    "workers.version",
    "workers.patience",
    "workers.failpoints",
    "workers.settings",
    "workers.log",
)
RUNNING = (*FLOOR, "workers.telemetry", "workers.resources", "workers.service")

MAY_IMPORT: dict[str, tuple[tuple[str, ...], str]] = {
    "schemas": ((), "both sides of the wire must agree without a server"),
    "workers.errors": ((), "everybody raises; a cycle otherwise"),
    "workers.clock": ((), "the same"),
    "workers.ids": (("schemas",), "the same"),
    "workers.backoff": ((), "pure arithmetic"),
    "workers.tasks": ((), "ends tasks, whichever they are"),
    "workers.version": ((), "tells versions apart"),
    "workers.patience": (("workers.clock",), "counts time that it is given"),
    "workers.failpoints": (("workers.errors",), "every loop comes by one; it knows none"),
    "workers.broker": (("schemas", "workers.errors"), "the floor: anything above would make a cycle"),
    "workers.settings": (("schemas", "workers.broker.rules", "workers.errors"), "read before anything is built"),
    "workers.log": (("schemas", "workers.settings"), "everybody logs"),
    "workers.telemetry": (("schemas", "workers.log"), "everybody traces"),
    "workers.resources": (("schemas", "workers.broker", *FLOOR, "workers.telemetry"), "no Letta in it: the port is an argument"),
    "workers.service": (("workers.broker", *FLOOR, "workers.resources"), "every loop is one; it knows none"),
    "workers.heartbeat": (("workers.broker", *RUNNING), "tells of services it is given"),
    "workers.watchdog": ((), "must work when nothing else does"),
    "workers.bus": (("schemas", "workers.broker", *RUNNING), "used by the orchestrator and by outside producers"),
    "workers.directory": (("schemas", "workers.broker", *RUNNING), "asks a source that it is given, never a Letta client"),
    "workers.mailbox": (("schemas", "workers.broker", *RUNNING), "wakes a pool by job name, so that turn stays above it"),
    "workers.dispatch": (
        ("schemas", "workers.broker", "workers.bus", "workers.directory", "workers.mailbox", *RUNNING),
        "knows nothing of Letta or limits",
    ),
    "workers.policies": (("schemas", "workers.broker", "workers.errors"), "time comes in as a fact: testable without a clock"),
    "workers.turn.letta": (("schemas", "workers.errors", "workers.clock"), "the only importers of a Letta client, and nothing else"),
    "workers.turn": (
        ("schemas", "workers.broker", "workers.directory", "workers.mailbox", "workers.policies", *RUNNING),
        "nobody but the pool and the composition root imports it",
    ),
    "workers.pool": (("schemas", "workers.broker", "workers.turn", *RUNNING), "runs drains; arq stops here"),
    "workers.roles": (("schemas", "workers"), "the composition root: the one place that wires"),
    "orchestrator": (("schemas", "workers.bus", "workers.broker", *RUNNING), "speaks by message only"),
    "console": (("schemas", "workers", "orchestrator"), "the front door; nobody imports it"),
    "bench": (("schemas", "workers", "orchestrator", "console"), "measures it all from outside; nobody imports it"),
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of ours by name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported name with whether it stands inside a function."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in inside


def layer_of(module: str) -> str:
    """The most specific line of the table for a module."""
    fitting = [layer for layer in MAY_IMPORT if module == layer or module.startswith(f"{layer}.")]
    return max(fitting, key=len, default="")


def within(name: str, layers: tuple[str, ...]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


MODULES = modules()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    layer = layer_of(module)
    if not layer:
        assert module == "workers", f"{module} stands in no line of the table"
        return
    allowed, reason = MAY_IMPORT[layer]
    for name, _ in imports_of(MODULES[module]):
        if name.partition(".")[0] in PACKAGES:
            assert within(name, (layer, *allowed)), f"{module} imports {name}, but {layer}: {reason}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_hides_in_a_function(module: str) -> None:
    assert [name for name, hidden in imports_of(MODULES[module]) if hidden] == []


def test_only_the_adapters_import_a_letta_client() -> None:
    importers = {
        module
        for module, path in MODULES.items()
        if module.startswith(("schemas", "workers", "orchestrator"))
        for name, _ in imports_of(path)
        if name.partition(".")[0] in {"letta_client", "httpx", "httpx_aiohttp"}
    }

    assert {layer_of(module) for module in importers} == {"workers.turn.letta"}


def test_schemas_import_pydantic_and_the_standard_library_only() -> None:
    roots = {
        name.partition(".")[0]
        for module, path in MODULES.items()
        if layer_of(module) == "schemas"
        for name, _ in imports_of(path)
    }

    assert roots - set(sys.stdlib_module_names) <= {"pydantic", "pydantic_core", "schemas"}


def test_nobody_pickles() -> None:
    """arq's default would let whoever writes one key run code in every worker (HAZARDS.md A1)."""
    roots = {name.partition(".")[0] for path in MODULES.values() for name, _ in imports_of(path)}

    assert roots.isdisjoint({"pickle", "dill", "cloudpickle", "marshal", "shelve"})


def test_the_imports_form_no_cycle() -> None:
    edges = {
        module: {
            target
            for name, _ in imports_of(path)
            for target in (name, name.rpartition(".")[0])
            if target in MODULES and target != module
        }
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


def test_the_packages_of_workers_sort_in_the_order_a_message_travels() -> None:
    path = ["broker", "bus", "directory", "dispatch", "mailbox", "policies", "turn"]
    packages = sorted(entry.parent.name for entry in (ROOT / "workers").glob("*/__init__.py"))

    assert packages == path


@pytest.mark.parametrize("module", sorted(name for name, path in MODULES.items() if path.name == "__init__.py"))
def test_a_package_says_what_it_is_in_a_docstring_and_does_nothing(module: str) -> None:
    text = MODULES[module].read_text()
    tree = ast.parse(text)

    assert ast.get_docstring(tree)
    assert len(tree.body) == 1
    assert len(text.splitlines()) <= 25
