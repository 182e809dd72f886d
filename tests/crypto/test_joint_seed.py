"""A seed of all silos: a silo that cheats gets no other one, and is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from silofl.crypto.secagg import commit, disclose, is_double, joint_seed, says_the_same
from silofl.crypto.secagg.joint_seed import Commitment, SeedValue
from silofl.crypto.secagg.messages import sign
from silofl.errors import ProtocolError
from tests.crypto.harness import SESSION, Network, identities, make_round

N, MATTER = 5, b"m" * 32
LIAR = 3


def stages(number: int = 1, session: bytes = SESSION) -> dict[int, Any]:
    network = Network(make_round(N, number, session), {silo: [silo] * 4 for silo in range(N)})
    network.run(stop="agree")
    return network.stages


def committed(parties: dict[int, Any], matter: bytes = MATTER) -> dict[int, bytes]:
    return {silo: commit(stage, matter) for silo, stage in parties.items()}


def opened(
    parties: dict[int, Any], commitments: dict[int, bytes], matter: bytes = MATTER
) -> dict[int, bytes]:
    return {silo: disclose(stage, matter, range(N), commitments) for silo, stage in parties.items()}


def seeds(parties: dict[int, Any], matter: bytes = MATTER) -> set[bytes]:
    told = committed(parties, matter)
    values = opened(parties, told, matter)
    return {joint_seed(stage, matter, range(N), told, values) for stage in parties.values()}


def refused(parties: dict[int, Any], told: dict[int, bytes], values: dict[int, bytes], said: str) -> None:
    """By every other silo, by name."""
    for silo, stage in parties.items():
        if silo != LIAR:
            with pytest.raises(ProtocolError, match=said) as caught:
                joint_seed(stage, MATTER, range(N), told, values)
            assert caught.value.sender == LIAR


def test_all_have_one_seed_for_each_matter_and_the_same_when_it_is_drawn_again() -> None:
    (first,) = seeds(stages())
    (again,) = seeds(stages(number=9, session=bytes(16)))
    (other,) = seeds(stages(), b"o" * 32)
    assert first == again != other


def test_a_silo_that_opens_another_value_than_it_committed_to_is_named() -> None:
    parties = stages()
    told = committed(parties)
    values = opened(parties, told)
    true = SeedValue.decode(values[LIAR][:-64], LIAR)
    values[LIAR] = sign(replace(true, value=b"v" * 32), identities(N)[LIAR])
    refused(parties, told, values, f"silo {LIAR} opens another value .* than it committed to")


def test_a_silo_that_never_opens_its_value_is_named() -> None:
    parties = stages()
    told = committed(parties)
    values = opened(parties, told)
    del values[LIAR]
    refused(parties, told, values, f"silo {LIAR} committed to a value .* and does not open it")


def test_a_silo_that_commits_to_anothers_value_cannot_open_it() -> None:
    """A copy of silo 0's commitment, and later of its value, would take both out of what is random."""
    parties = stages()
    told = committed(parties)
    copied = Commitment.decode(told[0][:-64], 0)
    told[LIAR] = sign(replace(copied, sender=LIAR), identities(N)[LIAR])
    values = opened(parties, told)
    value = SeedValue.decode(values[0][:-64], 0)
    values[LIAR] = sign(replace(value, sender=LIAR), identities(N)[LIAR])
    refused(parties, told, values, "than it committed to")


def test_a_silo_that_commits_to_two_values_is_found_before_anything_is_masked() -> None:
    """It tells silo 0 one commitment and the others another: their values say what they were given."""
    parties = stages()
    told = committed(parties)
    other = Commitment(SESSION, 1, LIAR, MATTER, b"c" * 32)
    lied = told | {LIAR: sign(other, identities(N)[LIAR])}
    values = {
        silo: disclose(parties[silo], MATTER, range(N), lied if silo == 0 else told) for silo in parties
    }
    with pytest.raises(ProtocolError, match="silo 0 was given other commitments than this silo"):
        joint_seed(parties[1], MATTER, range(N), told, values)


def test_what_was_changed_on_the_wire_or_is_of_another_round_is_refused() -> None:
    parties = stages()
    told = committed(parties)
    values = opened(parties, told)
    spoiled = values[LIAR][:-70] + bytes([values[LIAR][-70] ^ 1]) + values[LIAR][-69:]
    refused(parties, told, values | {LIAR: spoiled}, "signature")
    earlier = committed(stages(number=2))
    refused(parties, told | {LIAR: earlier[LIAR]}, values, "belongs to round 2, not 1")


def test_a_commitment_says_nothing_of_the_value_without_the_key() -> None:
    parties = stages()
    commitment = Commitment.decode(committed(parties)[0][:-64], 0).commitment
    value = SeedValue.decode(opened(parties, committed(parties))[0][:-64], 0).value
    assert commitment != value
    assert value not in b"".join(committed(parties).values())


def test_two_commitments_of_one_draw_convict_whose_signatures_they_have_and_nobody_else() -> None:
    parties, roster = stages(), make_round(N).roster
    true, again = committed(parties)[LIAR], committed(stages(number=9, session=bytes(16)))[LIAR]
    other = sign(Commitment(SESSION, 1, LIAR, MATTER, b"c" * 32), identities(N)[LIAR])
    assert is_double(roster, LIAR, true, other)
    assert is_double(roster, LIAR, again, other)  # of two sessions
    assert says_the_same(LIAR, true, again)
    for first, second in (
        (true, again),
        (true, committed(parties, b"o" * 32)[LIAR]),  # another draw
        (true, sign(Commitment(SESSION, 1, LIAR, MATTER, b"c" * 32), identities(N)[0])),
        (true, other[:-1] + bytes([other[-1] ^ 1])),
        (true, b""),
    ):
        assert not is_double(roster, LIAR, first, second)
    assert not is_double(roster, 0, true, other)
