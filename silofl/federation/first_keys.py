"""The keys of a run without a roster, agreed on: made at its first start, proved whenever a silo is back.

What they protect from and what not: `docs/threat-model.md`, "Ephemeral identities".
"""

from __future__ import annotations

from pathlib import Path

from silofl.checkpoint import run_keys
from silofl.checkpoint.names import stem
from silofl.checkpoint.run_keys import KeptKeys
from silofl.comm.collective_errors import allgather_object, raise_if_any, raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.config import Config
from silofl.crypto.identity import Identity
from silofl.crypto.rejoin_proof import challenge, prove, proves
from silofl.crypto.roster import Roster
from silofl.crypto.session_id import session_nonce
from silofl.crypto.signer import Signer
from silofl.errors import ConfigError

STATEMENT = b"the silo of the first start, in a job that goes on with the run"
GIVE_UP = "begin a new run with --run"


def make_keys(comm: Communicator, config: Config, run: str) -> Signer:
    """This silo's at a run's first start, to be kept by `run_keys.keep`. Collective.

    Raises ConfigError, on every rank, where two ranks tell the same key or one tells none.
    """
    silo = comm.members[comm.rank]
    with raise_on_all_ranks(comm):
        identity = _new_identity(config, silo, run)
    told = comm.allgather_bytes(identity.public)
    with raise_on_all_ranks(comm):
        return Signer(identity, Roster.ephemeral(told), of_first_start=True)


def common_roster(comm: Communicator, path: Path, own: KeptKeys) -> Roster | None:
    """The public keys that a run's silos have kept, the same on every rank, or None. Collective.

    A silo whose disk is lost takes those of the others. Raises ConfigError, on every rank, where two silos
    have different ones.
    """
    told = allgather_object(comm, None if own.roster is None else own.roster.dumps())
    known = {silo: text for silo, text in zip(comm.members, told, strict=True) if text is not None}
    for silo, text in known.items():
        first = next(iter(known))
        if text != known[first]:
            raise ConfigError(
                f"silo {silo} has other public keys of the run's first start than silo {first}: put its own "
                f"{path / stem(silo) / run_keys.ROSTER} back from a copy, or {GIVE_UP}",
                rank=0,
            )
    if own.roster is not None or not known:
        return own.roster
    return Roster.parse(next(iter(known.values())).encode(), path / run_keys.ROSTER)


def prove_keys(
    comm: Communicator, config: Config, path: Path, own: KeptKeys, roster: Roster | None, run: str
) -> Signer:
    """This silo's in a run that goes on: each silo proves to all that it is itself. Collective.

    `roster` is the `common_roster`. Raises ConfigError, on every rank, naming a silo that cannot prove it.
    """
    silo, silos = comm.members[comm.rank], comm.members
    with raise_on_all_ranks(comm):
        identity = _own_identity(config, path, silo, own, run)
        if roster is None:
            raise _lost(path / stem(silo) / run_keys.ROSTER, silo)
    nonces = comm.allgather_bytes(session_nonce())
    asked = challenge(bytes.fromhex(run), silos, dict(zip(silos, nonces, strict=True)))
    proofs = comm.allgather_bytes(prove(identity, asked, silo, STATEMENT))
    unproved = [
        other
        for other, proof in zip(silos, proofs, strict=True)
        if not proves(roster, asked, other, STATEMENT, proof)
    ]
    raise_if_any(comm, _unproved(unproved[0], path) if unproved else None)
    return Signer(identity, roster, of_first_start=True)


def returning_keys(config: Config, path: Path, silo: int, run: str, roster: str) -> Signer:
    """Those of a silo whose process was started again alone; `roster` is what survivors told. Not collective.

    Raises ConfigError where it cannot prove that it is itself.
    """
    own = run_keys.kept(path, silo)
    identity = _own_identity(config, path, silo, own, run)
    known = own.roster or Roster.parse(roster.encode(), Path(run_keys.ROSTER))
    return Signer(identity, known, of_first_start=True)


def _own_identity(config: Config, path: Path, silo: int, own: KeptKeys, run: str) -> Identity:
    """By which a silo proves that it is itself; under `checkpoint.buddy` its disk may be lost."""
    if own.identity is not None:
        return own.identity
    if config.checkpoint.buddy:
        return run_keys.derived(config.checkpoint.key_file, silo, run)
    raise _lost(run_keys.identity_path(path, silo), silo)


def _new_identity(config: Config, silo: int, run: str) -> Identity:
    if config.checkpoint.buddy:
        return run_keys.derived(config.checkpoint.key_file, silo, run)
    return Identity.generate()


def _lost(file: Path, silo: int) -> ConfigError:
    return ConfigError(
        f"{file} is missing, by which silo {silo} proves that it is the silo of the run's first start: "
        f'put it back from a copy, leave the silo out by failure.policy = "shrink", or {GIVE_UP}'
    )


def _unproved(silo: int, path: Path) -> ConfigError:
    return ConfigError(
        f"silo {silo} has not proved that it is the silo of the run's first start: put its own "
        f"{run_keys.identity_path(path, silo)} back from a copy, or {GIVE_UP}"
    )
