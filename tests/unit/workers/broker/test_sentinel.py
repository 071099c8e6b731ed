"""Which server the sentinels' answers lead to, and what a Sentinel URL may say."""

import pytest
from redis.asyncio import SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from workers.broker.client import connection_pool
from workers.broker.sentinel import Opinion, newest_master, whereabouts
from workers.errors import ConfigurationError

FORMER, NEXT = ("10.0.0.1", 6379), ("10.0.0.2", 6379)


def test_a_url_names_sentinels_a_service_and_how_to_speak_to_redis() -> None:
    found = whereabouts("redis+sentinel://me:p%40ss@s1:7000,s2,[::1]:7001/main/2")

    assert found.sentinels == (("s1", 7000), ("s2", 26379), ("::1", 7001))
    assert (found.service, found.options["db"]) == ("main", 2)
    assert (found.options["username"], found.options["password"]) == ("me", "p@ss")
    assert found.sentinel_options == {}


def test_sentinels_may_want_a_password_of_their_own() -> None:
    found = whereabouts("redis+sentinel://:redis@s1/main?sentinel_password=theirs&sentinel_username=us")

    assert found.options["password"] == "redis"
    assert found.sentinel_options == {"username": "us", "password": "theirs"}
    assert not any(name.startswith("sentinel") for name in found.options)


def test_tls_goes_to_redis_and_to_its_sentinels_with_the_host_name_checked() -> None:
    url = "rediss+sentinel://s1/main?ssl_ca_certs=/ca.pem"
    pool = connection_pool(url)

    assert issubclass(pool.connection_class, SSLConnection)
    assert pool.connection_kwargs["ssl_check_hostname"] is True
    assert whereabouts(url).sentinel_options == {"ssl": True, "ssl_ca_certs": "/ca.pem"}


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://s1:7000",
        "redis+sentinel://s1:7000/",
        "redis+sentinel:///main",
        "redis+sentinel://s1:port/main",
        "redis+sentinel://s1,,s2/main",
        "redis+sentinel://me:secret@s1/main/first",
        "redis+sentinel://me:sec/ret@s1/main",
    ],
)
def test_a_url_that_cannot_be_read_says_what_was_expected_and_keeps_the_secret(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"host\[:port\],host\[:port\]/service") as caught:
        connection_pool(url)
    assert "sec" not in str(caught.value).replace("sentinel", "")


def test_the_latest_failover_decides_whoever_was_cut_off() -> None:
    """A sentinel on the wrong side of a partition still names the former master, in good faith."""
    cut_off = Opinion(epoch=3, master=FORMER, is_down=False)
    others = Opinion(epoch=4, master=NEXT, is_down=False)

    assert newest_master("main", [cut_off, others, TimeoutError()]) == NEXT
    assert newest_master("main", [others, cut_off]) == NEXT


def test_one_sentinel_that_cannot_reach_the_master_is_outvoted() -> None:
    down, up = Opinion(1, FORMER, is_down=True), Opinion(1, FORMER, is_down=False)

    assert newest_master("main", [down, up]) == FORMER


def test_a_master_that_is_down_is_not_waited_for() -> None:
    with pytest.raises(RedisConnectionError, match="no other yet"):
        newest_master("main", [Opinion(1, FORMER, is_down=True), OSError()])


def test_where_no_sentinel_answers_their_words_are_told() -> None:
    with pytest.raises(RedisConnectionError, match="no sentinel tells of main: No such master with that name, OSError"):
        newest_master("main", [ResponseError("No such master with that name"), OSError("secret")])
