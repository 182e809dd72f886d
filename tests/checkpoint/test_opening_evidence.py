"""A record of an opening counts for what most silos have signed, and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from silofl.checkpoint.opening_log import Opening
from silofl.crypto.identity import Identity
from silofl.errors import ProtocolError, StoppedError
from tests.signed_openings import evidence, signed

SILOS, RUN = 9, "0" * 32
ALL = tuple(range(SILOS))
LIARS = (7, 8)
CHOSEN = ((0, 7, 8), (1, 2, 3), (4, 5, 6))
IDENTITIES = [Identity.generate() for _ in range(SILOS)]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Opening(2, ALL, ALL, "", CHOSEN), "is not signed by silo 0, which it has as there"),
        (Opening(2, ALL, LIARS, "", CHOSEN), "is not signed by 5 silos or more, without whom no sum opens"),
        (Opening(2, ALL[1:], ALL), "is not signed by silo 0, which it has as there"),
        (Opening(2, ALL[4:], ALL[4:]), "is not signed by silo 4, which it has as there"),
    ],
    ids=["buckets", "signed by friends", "a silo sits out", "five silos of nine"],
)
def test_what_two_colluders_made_up_is_not_believed(told: Opening, said: str) -> None:
    made = signed(told, evidence(RUN, IDENTITIES), LIARS)
    assert evidence(RUN, IDENTITIES, SILOS)[0].refusal(made) == f"its record of round 2 {said}"


@pytest.mark.parametrize(
    "change",
    [
        {"round": 3},
        {"silos": ALL[1:]},
        {"way": "1" * 64},
        {"buckets": CHOSEN},
        {"present": ALL[:-1]},
        {"signatures": ()},
        {"signatures": ("x",) * SILOS},
    ],
    ids=str,
)
def test_what_all_signed_is_believed_and_nothing_else(change: dict[str, Any]) -> None:
    honest = signed(Opening(2, ALL, ALL), evidence(RUN, IDENTITIES))
    known = evidence(RUN, IDENTITIES, SILOS)[0]
    assert known.refusal(honest) is None
    assert known.refusal(replace(honest, **change)) is not None
    assert evidence("1" * 32, IDENTITIES, SILOS)[0].refusal(honest) is not None  # of another run


def test_a_silo_that_signs_another_opening_is_named_before_any_sum_opens() -> None:
    all_of = evidence(RUN, IDENTITIES, SILOS)
    opening = Opening(2, ALL, ALL)
    told = [one.sign(opening) for one in all_of]
    assert all_of[0].signed(opening, told).signatures == tuple(told)
    told[7] = all_of[7].sign(replace(opening, silos=ALL[1:]))
    with pytest.raises(ProtocolError, match="silo 7 and this silo were given different") as caught:
        all_of[0].signed(opening, told)
    assert caught.value.sender == 7


def test_half_of_the_silos_sign_nothing() -> None:
    with pytest.raises(StoppedError, match="4 of 9 silos are left, and 5 sign what is opened at least"):
        evidence(RUN, IDENTITIES, SILOS)[0].sign(Opening(2, ALL, ALL[:4]))
