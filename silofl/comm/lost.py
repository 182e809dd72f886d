"""What a collective raises when it can never complete because a rank is gone."""

from __future__ import annotations


class RanksLost(RuntimeError):
    """A rank of this communicator died, or a peer has given the communicator up because one did.

    Which ranks are left, `Communicator.recover` finds out. Not a `SiloflError`: a run goes on.
    """


class Died(BaseException):
    """Ends one rank of `run_in_threads` as SIGKILL ends a process: nothing that it does catches it."""
