"""What cannot be summed is refused by all ranks together: of one alone it would end the job by force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError
from silofl.federation.loop import train
from tests.federation.test_traffic import WithoutBuffers, settings


@pytest.mark.parametrize(
    ("silos", "secure", "word"),
    [
        (1, {"protocol": "secagg"}, "over 1 hides nothing"),
        (2, {"protocol": "secagg"}, "over 2 hides nothing"),
        (4, {"protocol": "secagg", "threshold": 2}, "must be more than half of 4 silos"),
        (4, {"protocol": "additive", "threshold": 2}, "must be more than half of 4 silos"),
        (3, {"protocol": "secagg", "threshold": 4}, "must be more than half of 3 silos"),
        (3, {"protocol": "additive", "committee": 5}, "is more than the 3 silos there are"),
    ],
)
def test_what_cannot_be_summed(tmp_path: Path, silos: int, secure: dict[str, Any], word: str) -> None:
    config = settings(tmp_path, WithoutBuffers, secure=secure, failure={"policy": "abort"})

    def rank(comm: Communicator) -> Any:
        try:
            return train(config, comm=comm)
        except ConfigError as error:
            return str(error), error.rank

    ends = run_in_threads(silos, rank, timeout_s=30)
    assert all(word in sentence and number == 0 for sentence, number in ends)
