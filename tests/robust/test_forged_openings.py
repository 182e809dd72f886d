"""One silo's record of openings decides nothing of a resumed run that the others have not signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from silofl.checkpoint.opening_log import Opening
from silofl.errors import ProtocolError
from tests.robust.test_in_buckets import federate, openings, settings
from tests.signed_openings import told_by
from tests.strategies.test_federated import deaths

__all__ = ["deaths"]
pytestmark = pytest.mark.usefixtures("deaths")
CHOSEN = ((0, 7, 8), (1, 2, 3), (4, 5, 6))


def test_buckets_that_two_colluders_made_up_are_refused_by_name_and_the_run_goes_on(tmp_path: Path) -> None:
    """Silos 7 and 8 would have silo 0 alone with them in rounds that were not opened yet."""
    federate(settings(tmp_path, rounds=1))
    (honest,) = openings(tmp_path)
    for number in (2, 3):
        forged = Opening(number, honest.silos, honest.present, honest.way, CHOSEN)
        told_by(tmp_path, 8, forged, liars=(7, 8))
    results = federate(settings(tmp_path), resume=True)
    assert {type(one) for one in results} == {ProtocolError}
    said = "silo 8's message about checkpoints is refused: its record of round 2 is not signed by silo 0"
    assert said in str(results[0])
    assert "move its silo-0008/openings.jsonl away" in str(results[0])
    (tmp_path / "silo-0008" / "openings.jsonl").unlink()
    assert all(isinstance(one, dict) for one in federate(settings(tmp_path), resume=True))
    assert {one.buckets for one in openings(tmp_path)} == {honest.buckets}
