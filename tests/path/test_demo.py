"""`postroom demo` plays to its end, says that it is simulated, and accounts for every message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from console.main import main; main()", "demo")

pytestmark = pytest.mark.processes


def demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The demo as a person starts it, on a machine where everything else is set, and wrong for it."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "POSTROOM_REDIS_URL": "redis://127.0.0.1:1/0",
        "LETTA_BASE_URL": "http://127.0.0.1:1",
        "POSTROOM_HOME": str(tmp_path / "home"),
        "POSTROOM_AGING_NORMAL_SECONDS": "0",
        "TMPDIR": str(tmp_path),
    }
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False
    )


def test_the_demo_accounts_for_every_message_and_keeps_what_is_asked_for(tmp_path: Path) -> None:
    done = demo(tmp_path, "--json", "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    played = json.loads(done.stdout)
    account = played["account"]

    assert played["simulated"] is True
    assert [act["name"] for act in played["acts"] if not act["as_expected"]] == []
    assert account["published"] == account["ended"] == len(account["messages"]) == 57
    assert [one for one in account["messages"] if one["ended"] != one["expected"]] == []
    assert account["ends"] == {"cancelled": 2, "dead": 1, "delivered": 51, "expired": 1, "refused": 2}
    assert account["turns_counted_by_the_sandbox"] == account["delivered"] == 53
    assert played["seconds"] < 60
    kept = Path(played["kept"])
    assert kept.parent == tmp_path
    assert (kept / "redis").is_dir()
    assert "Topic" not in (kept / "services.log").read_text()


def test_the_demo_leaves_nothing_behind_and_speaks_to_people(tmp_path: Path) -> None:
    done = demo(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SIMULATED") == 2
    for seen in ("An urgent message overtakes", "of 40 went, and no more", "none twice", "Try next"):
        assert seen in " ".join(done.stdout.split())
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
