"""`python misbehaving.py HOW ...` is `silofl ...`, in which silo 1 does something else at its third vote.

`silent`: nothing more. Its process lives, its threads run, and it has no watchdog that would end it.
`raises`: an error of its own, of which no other rank knows.
"""

import os
import sys
import time

from silofl.__main__ import main
from silofl.launcher import watchdog


def misbehave(how: str) -> None:
    from silofl.comm.base import CommunicatorBase
    from silofl.errors import ConfigError

    mark, votes = CommunicatorBase.mark, []

    def third(comm: CommunicatorBase, step: str) -> None:
        votes.extend([step] if step == "agree" else [])
        while len(votes) == 3 and how == "silent":
            time.sleep(1)
        if len(votes) == 3:
            raise ConfigError("a key of this rank alone is wrong: mend it")
        mark(comm, step)

    CommunicatorBase.mark = third


if __name__ == "__main__":
    kind = sys.argv.pop(1)
    if os.environ.get("OMPI_COMM_WORLD_RANK") == "1":
        if kind == "silent":
            watchdog.spawn_watchdog = lambda rank, *, survivors_go_on: None
        misbehave(kind)
    main()
