"""Whether all silos built the model that a run begins with, which is rank 0's.

Who decides the first model decides what the first sums tell: trap weights (`privacy_attacks/traps/`) let
single examples through. Every silo builds a model under the run's seed, or from one file, and sees for itself
whether it is the one that rank 0 handed out. Drawn weights may differ in their last bits between processors
and versions of torch, so of those the silos are told; a file's do not.
"""

from __future__ import annotations

from silofl.comm.collective_errors import allgather_parsed
from silofl.errors import MismatchError
from silofl.federation.federation import Federation
from silofl.federation.first_models import first_values


def compare_first_models(federation: Federation) -> list[str]:
    """A notice, on every rank, where silos built another first model than rank 0's; collective.

    Raises MismatchError, on every rank, where the model is that of a file.
    """
    group, silo = federation.group, federation.context.silo
    shared = federation.topology.shared["model"]
    built = first_values(silo.initial(), silo.starts)[: len(shared)]
    same, first = built.tobytes() == shared.tobytes(), group.members[0]
    error = None
    if silo.weights and not same:
        error = MismatchError(
            f"the model that silo {first} has the run begin with is not that of task.weights, as silo "
            f"{group.silo_id} reads it: nothing was trained on it",
            rank=group.silo_id,
        )

    def told() -> list[tuple[int, bool]]:
        every = allgather_parsed(group.comm, same, bool, "whether it built the first model", error)
        return list(zip(group.comm.members, every, strict=True))

    others = [str(number) for number, alike in group.step(told) if not alike]
    if not others:
        return []
    return [
        f"it begins with silo {first}'s weights, and silo(s) {', '.join(others)} built others by the same "
        "seed: so do other versions of torch, and a silo that wants single records to show in sums; give all "
        "silos one file by task.weights, with which this is refused"
    ]
