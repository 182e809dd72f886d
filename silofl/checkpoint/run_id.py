"""The run's id: made at its start, of everybody's randomness, and found again by a resume."""

from __future__ import annotations

import os
from pathlib import Path

from silofl.checkpoint.catalogue import gather_manifests
from silofl.checkpoint.checked import hexadecimal, refused
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.manifest import RUN_BYTES
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import allgather_object
from silofl.comm.protocol import Communicator
from silofl.crypto.kdf import digest
from silofl.errors import CheckpointError

OF_NO_RUN = "0" * 2 * RUN_BYTES
"""For benchmarks, which commit nothing that is found again."""


def new_run_id(comm: Communicator) -> str:
    """32 hexadecimal digits, of all ranks' randomness: no other run has them. Collective."""
    return digest("run", *comm.allgather_bytes(os.urandom(RUN_BYTES)))[:RUN_BYTES].hex()


def found_run_id(comm: Communicator, directory: Path, trust: Trust, own: str | None) -> str | None:
    """The id of the run to go on with: the newest committed round's, else the first that a silo knows.

    None where there is none. Collective. `own` is what this silo knows from elsewhere.

    Raises CheckpointError, the same on every rank, where a manifest is not to be trusted or rounds are of
    several runs.
    """
    catalogue = gather_manifests(comm, CheckpointDirectory(directory, comm.members[comm.rank]), trust)
    runs = {manifest.run for manifest in catalogue.manifests}
    if catalogue.untrusted:
        raise CheckpointError(untrusted(directory, catalogue.untrusted[0]), rank=0)
    if len(runs) > 1:
        raise CheckpointError(
            f"{directory} holds rounds of {len(runs)} runs, at one silo or another: "
            "move those of the others away, or name another run directory with --run",
            rank=0,
        )
    known = [_checked(one, silo) for one, silo in zip(allgather_object(comm, own), comm.members, strict=True)]
    return next((one for one in [*runs, *known] if one is not None), None)


def untrusted(directory: Path, why: str) -> str:
    """The sentence that refuses a resume."""
    return f"cannot resume {directory}: {why}; move that round away, or name another run directory with --run"


def _checked(run: object, silo: int) -> str | None:
    try:
        return None if run is None else hexadecimal(run, "a run id", RUN_BYTES)
    except CheckpointError as error:
        raise refused(silo, error) from None
