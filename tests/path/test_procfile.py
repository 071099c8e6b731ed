"""`honcho start` runs the services one process each, from nothing but the Procfile."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.processes


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A folder of its own, and no address of anything."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("POSTROOM_", "LETTA_"))}
    return {**known, "POSTROOM_HOME": str(tmp_path / "home"), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def honcho(tmp_path: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "honcho.log").open("wb") as log:
        command = [str(BIN / "honcho"), "-d", str(tmp_path), "-f", str(ROOT / "Procfile"), "start"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def test_the_procfile_delivers(
    honcho: subprocess.Popen[bytes], tmp_path: Path, environment: dict[str, str]
) -> None:
    await until((tmp_path / "home" / "endpoints.json").exists, within=20)
    sent = subprocess.run(
        [str(BIN / "postroom"), *("send", "acme-researcher", "Topic: tea", "-t", "acme", "--wait")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )

    assert sent.returncode == 0, sent.stderr + (tmp_path / "honcho.log").read_text()
    assert "tea" in sent.stdout
    assert honcho.poll() is None
