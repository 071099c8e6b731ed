"""Addresses as they may be shown: never with a password."""

import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

from workers.broker.sentinel import Whereabouts, is_sentinel, whereabouts


def without_password(url: str) -> str:
    """The URL as it may be printed; a user's name stays."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"{parts.scheme}://{parts.path}"
    # By hand: a list of sentinels is no host that urllib could take apart.
    credentials, _, hosts = parts.netloc.rpartition("@")
    user = credentials.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{hosts}" if user else hosts, query="", fragment=""))


def has_password(url: str) -> bool:
    """Whether the URL carries one."""
    parts = urlsplit(url)
    return bool(parts.netloc.rpartition("@")[0].partition(":")[2] or parse_qs(parts.query).get("password"))


def redis_cli(url: str) -> str:
    """How redis-cli reaches the same Redis, as it is pasted into a shell."""
    parts = urlsplit(url)
    asking = ["--askpass"] if has_password(url) else []
    if is_sentinel(url):
        return _redis_cli_by_sentinel(whereabouts(url), asking)
    if parts.scheme == "unix":
        database = parse_qs(parts.query).get("db", ["0"])[0]
        where = ["-s", parts.path, *([] if database == "0" else ["-n", database])]
    else:
        where = ["-u", without_password(url)]
    return shlex.join(["redis-cli", *where, *asking])


def _redis_cli_by_sentinel(found: Whereabouts, asking: list[str]) -> str:
    """It knows nothing of sentinels: the shell asks one where the master is."""
    tls = ["--tls"] if "connection_class" in found.options else []
    host, port = found.sentinels[0]
    ask = shlex.join(
        ["redis-cli", "-h", host, "-p", str(port), *tls, "sentinel", "get-master-addr-by-name", found.service]
    )
    user = ["--user", found.options["username"]] if "username" in found.options else []
    database = ["-n", str(found.options["db"])] if found.options.get("db") else []
    with_what = shlex.join([*database, *tls, *user, *asking])
    return f"redis-cli $({ask} | xargs printf '-h %s -p %s') {with_what}".rstrip()


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
