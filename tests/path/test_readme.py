"""What the README tells a newcomer to type works as it stands there."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import REAL
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()

pytestmark = pytest.mark.processes


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("POSTROOM_", "LETTA_"))}
    path = os.pathsep.join([str(BIN), str(Path(next(iter(REAL.values()))).parent), os.environ["PATH"]])
    return {**known, "PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.fixture
async def redis_url(tmp_path: Path, shell: dict[str, str]) -> AsyncIterator[str]:
    """`postroom up`, in a folder of its own."""
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(["postroom", "up"], env=shell, cwd=tmp_path, stdout=log, stderr=log)
    endpoints = tmp_path / ".postroom" / "endpoints.json"
    await until(lambda: endpoints.exists() and "Postroom is up" in (tmp_path / "up.log").read_text(), within=30)
    yield json.loads(endpoints.read_text())["redis_url"]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


async def test_what_the_readme_says_works(redis_url: str, tmp_path: Path, shell: dict[str, str]) -> None:
    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", command], env=shell, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    said = {line: run(line) for block in blocks("sh") for line in block.splitlines()}
    csv = next(out for line, out in said.items() if "-o csv" in line)
    assert csv.count(",delivered,") == 4
    assert "acme-researcher" in next(out for line, out in said.items() if "get replies" in line)
    entry = next(block for block in blocks("") if block.startswith("redis-cli")).replace(
        "redis-cli", f"redis-cli -u {redis_url}"
    )
    assert re.search(r"\d+-\d+", run(entry))
    script = tmp_path / "produce.py"
    script.write_text(blocks("python")[0] + f"\n\nasyncio.run(main({redis_url!r}))\n")
    printed = run(f"{sys.executable} {script}")

    assert "Findings on" in printed
    assert "delivered replied" in printed
