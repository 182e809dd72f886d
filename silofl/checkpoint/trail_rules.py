"""What entries of an audit trail have to be like: chained, by who was there, and signed by more than half.

Any two sets of more than half of a run's silos have a silo in common. So two courses of one run need a silo
that signed both, and half of the silos or fewer cannot write an entry, whatever they say of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from silofl.checkpoint.audit_trail import PURPOSE, Entry, SignedEntry, TrailError, TrailHead
from silofl.crypto.identity import Identity
from silofl.crypto.signer import Signer


def quorum(silos: int) -> int:
    """How many of a run's silos sign an entry at least: more than half."""
    return silos // 2 + 1


def verify(signed: Sequence[SignedEntry], head: TrailHead, run: str) -> None:
    """Raise TrailError, one sentence, unless a run's entries follow each other and all signatures fit."""
    _, error = _checked(signed, head, run)
    if error is not None:
        raise error


def verified_part(signed: Sequence[SignedEntry], head: TrailHead, run: str) -> list[SignedEntry]:
    """The first entries of these that hold, as many as do."""
    return list(signed[: _checked(signed, head, run)[0]])


def _checked(signed: Sequence[SignedEntry], head: TrailHead, run: str) -> tuple[int, TrailError | None]:
    """How many entries hold, and what is wrong with the next."""
    signer, before, previous = Signer(Identity.generate(), head.roster), None, head.start(run)
    for count, one in enumerate(signed):
        try:
            _refuse_unchained(one.entry, before, previous)
            _refuse_other_silos(one.entry, before, len(head.roster))
            _refuse_unsigned(one, signer)
        except TrailError as error:
            return count, error
        before, previous = one.entry, one.entry.digest.hex()
    return len(signed), None


def departed(before: Sequence[int], members: Sequence[int], present: Sequence[int]) -> tuple[int, ...]:
    """Which silos an entry names as departed."""
    return tuple(sorted({*before, *members} - {*present}))


def _where(entry: Entry) -> str:
    return f"the entry of round {entry.round}"


def _refuse_unchained(entry: Entry, before: Entry | None, previous: str) -> None:
    """Rounds go up by one, or back, where a resume went back behind what had been signed."""
    where, last = _where(entry), 0 if before is None else before.round
    if entry.previous != previous:
        raise TrailError(
            f"the chain is broken before {where}: it does not name "
            + (f"the entry of round {last} as it is here" if last else "this run, its keys and its tensors")
            + ", so that one was changed, left out or put in"
        )
    if entry.round > last + 1:
        raise TrailError(f"{where} follows that of round {last}: those between are missing")
    if before is not None and entry.config != before.config:
        raise TrailError(f"{where} is of another configuration than those before it")


def _refuse_other_silos(entry: Entry, before: Entry | None, silos: int) -> None:
    where, every = _where(entry), set(range(silos))
    there = every if before is None else {*before.present}
    if not {*entry.present, *entry.departed, *entry.returned, *entry.members} <= every:
        raise TrailError(f"{where} names other silos than the run has")
    if len(entry.present) < quorum(silos):
        raise TrailError(
            f"{where} is one of {len(entry.present)} of {silos} silos, and no fewer than {quorum(silos)} can "
            "decide in a run: it is forged, or by a part that was cut off"
        )
    gone = departed(tuple(there), entry.members, entry.present)
    if entry.departed != gone or entry.returned != tuple(sorted({*entry.present} - there)):
        raise TrailError(f"{where} is of other silos than those before it and those it names as come or gone")


def _refuse_unsigned(one: SignedEntry, signer: Signer) -> None:
    entry, where = one.entry, _where(one.entry)
    lacking = [silo for silo in entry.present if silo not in one.signatures]
    if lacking:
        raise TrailError(f"{where} has no signature of silo {lacking[0]}, which was there")
    more = [silo for silo in one.signatures if silo not in entry.present]
    if more:
        raise TrailError(f"{where} has a signature of silo {more[0]}, which was not there")
    unfit = [
        silo
        for silo, text in one.signatures.items()
        if not signer.verify(silo, bytes.fromhex(text), PURPOSE, entry.digest)
    ]
    if len(unfit) == len(one.signatures):
        raise TrailError(f"{where} was changed: no silo's signature fits it")
    if unfit:
        raise TrailError(f"{where} has a signature of silo {unfit[0]} that does not fit it")
