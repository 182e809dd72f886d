"""`python misbehaving.py HOW ...` is `silofl ...`, in which silo 1 does something else at its third vote.

`silent`: nothing more. Its process lives, its threads run, and it has no watchdog that would end it.
`deaf`: nothing more as soon as another silo has died, whom the others would go on without.
`raises`: an error of its own, of which no other rank knows, and the abort that it asks MPI for reaches none.
"""

import os
import sys
import time
from types import SimpleNamespace

from silofl.__main__ import main
from silofl.launcher import watchdog


def misbehave(how: str) -> None:
    from silofl.comm import mpi_library
    from silofl.comm.base import CommunicatorBase
    from silofl.comm.mpi import MpiCommunicator
    from silofl.errors import ConfigError

    if how == "deaf":
        MpiCommunicator.recover = lambda comm: time.sleep(600)
        return
    mark, votes = CommunicatorBase.mark, []

    def third(comm: CommunicatorBase, step: str) -> None:
        votes.extend([step] if step == "agree" else [])
        while len(votes) == 3 and how == "silent":
            time.sleep(1)
        if len(votes) == 3:
            lost = SimpleNamespace(Abort=lambda exit_code: time.sleep(60))
            mpi_library.load = lambda: SimpleNamespace(COMM_WORLD=lost)
            raise ConfigError("a key of this rank alone is wrong: mend it")
        mark(comm, step)

    CommunicatorBase.mark = third


if __name__ == "__main__":
    kind = sys.argv.pop(1)
    if os.environ.get("OMPI_COMM_WORLD_RANK") == "1":
        if kind != "raises":
            watchdog.spawn_watchdog = lambda rank, *, survivors_go_on: None
        misbehave(kind)
    main()
