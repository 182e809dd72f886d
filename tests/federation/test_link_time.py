"""`silofl check --link` says how long a round's exchanges take: the bytes of silos that share no node."""

from __future__ import annotations

import pytest

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.federation.dry_run import dry_run
from silofl.federation.link_time import Link
from silofl.federation.traffic import Sent


def test_bytes_take_the_rate_and_each_exchange_the_latency() -> None:
    sent = Sent(bytes=25_000_000, exchanges=14)
    assert Link.named("100,20").describe(sent) == (
        "at least 2.28 s a round, beside training and the work on vectors, at 100 Mbit/s between each silo "
        "and the others and 20 ms: 2 s for the bytes, and 0.28 s for 14 exchanges, one after another"
    )
    assert "at least 0.2 s a round" in Link.named("1000").describe(sent)


@pytest.mark.parametrize("text", ["", "a", "0", "-1", "nan", "inf", "100,-1", "100,inf", "100,1,1", "100,"])
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r'--link ".*" is no link: give Mbit/s'):
        Link.named(text)


def test_a_secure_sum_has_as_many_exchanges_however_long_its_vectors_and_waits_at_each() -> None:
    def found(**secure: str) -> tuple[float, ...]:
        settings = configuration.parse({"task": {"name": "digits"}, "secure": secure})
        line = dry_run(settings, 4, Link(1e9, 1000.0)).link  # nothing but waits
        return tuple(float(word) for word in line.split() if word.replace(".", "").isdigit())

    secagg, plain = found()[-1], found(protocol="plain")[-1]
    assert 10 <= secagg <= 20
    assert 2 <= plain < secagg
