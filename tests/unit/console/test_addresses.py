"""Addresses are shown without what is secret in them."""

import shlex

import pytest

from console.addresses import has_password, redis_cli, without_password

SECRET = "hunter2"  # nobody's


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        (f"redis://:{SECRET}@db:6379/1", "redis://db:6379/1"),
        (f"rediss://me:{SECRET}@db/0", "rediss://me@db/0"),
        (f"redis://db:6379/0?password={SECRET}", "redis://db:6379/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        (f"redis+sentinel://me:{SECRET}@s1:26379,s2/main/1", "redis+sentinel://me@s1:26379,s2/main/1"),
        (f"redis+sentinel://s1,s2/main?sentinel_password={SECRET}&password={SECRET}", "redis+sentinel://s1,s2/main"),
        (f"unix:///run/redis.sock?db=2&password={SECRET}", "unix:///run/redis.sock"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert SECRET not in redis_cli(url)
    assert has_password(url) is (SECRET in url)


def test_redis_cli_asks_for_the_password_that_is_not_shown() -> None:
    assert shlex.split(redis_cli(f"redis://:{SECRET}@db:6379/1")) == [
        "redis-cli",
        "-u",
        "redis://db:6379/1",
        "--askpass",
    ]
    assert shlex.split(redis_cli("unix:///run/r.sock?db=2")) == ["redis-cli", "-s", "/run/r.sock", "-n", "2"]


def test_redis_cli_asks_a_sentinel_where_the_master_is() -> None:
    assert redis_cli(f"redis+sentinel://me:{SECRET}@s1:7000,s2/main/1") == (
        "redis-cli $(redis-cli -h s1 -p 7000 sentinel get-master-addr-by-name main | xargs printf '-h %s -p %s') "
        "-n 1 --user me --askpass"
    )
