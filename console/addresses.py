"""Addresses as they may be shown: never with a password."""

import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit


def without_password(url: str) -> str:
    """The URL as it may be printed; a user's name stays."""
    parts = urlsplit(url)
    if parts.hostname is None:
        return f"{parts.scheme}://{parts.path}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    host = f"{parts.username}@{host}" if parts.username else host
    netloc = f"{host}:{parts.port}" if parts.port else host
    return urlunsplit(parts._replace(netloc=netloc, query="", fragment=""))


def has_password(url: str) -> bool:
    """Whether the URL carries one."""
    parts = urlsplit(url)
    return bool(parts.password or parse_qs(parts.query).get("password"))


def redis_cli(url: str) -> str:
    """How redis-cli reaches the same Redis, as it is pasted into a shell."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        database = parse_qs(parts.query).get("db", ["0"])[0]
        where = ["-s", parts.path, *([] if database == "0" else ["-n", database])]
    else:
        where = ["-u", without_password(url)]
    asking = ["--askpass"] if has_password(url) else []
    return shlex.join(["redis-cli", *where, *asking])


def this_command() -> str:
    """What a person types to run `postroom` again, here."""
    program = Path(sys.argv[0])
    if program.name != "postroom":
        return "postroom"
    on_path = shutil.which("postroom")
    if on_path is not None and Path(on_path).resolve() == program.resolve():
        return "postroom"
    try:
        return str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(program)
