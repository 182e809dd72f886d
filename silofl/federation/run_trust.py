"""Which run this is, whose checkpoints of it are believed, and by which keys a returning silo is itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from silofl.aggregation.protocols import choose_protocol
from silofl.checkpoint import draw_log, opening_log, run_keys
from silofl.checkpoint.audit_trail import trail_path
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.run_id import found_run_id, new_run_id
from silofl.checkpoint.run_keys import KeptKeys
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config, for_silo
from silofl.crypto.identity import Identity
from silofl.crypto.signer import Signer, configured_signer
from silofl.errors import ConfigError, MismatchError
from silofl.federation.first_keys import common_roster, make_keys, prove_keys, returning_keys
from silofl.federation.privacy import release_log
from silofl.federation.rundir import own_path
from silofl.topologies.arrangements.base import Groups
from silofl.topologies.arrangements.registry import with_data

CHECKPOINTS = "checkpoints"


def own_trust(config: Config, silo: int, silos: int) -> Trust:
    """This silo's, by its identity and roster; ConfigError where they do not fit. Not collective."""
    counted = with_data(config.topology, silos)
    fewest = choose_protocol(config.secure, counted).fewest(config.secure, counted)
    secure = for_silo(config, silo).secure
    return Trust(None, configured_signer(secure, silo, silos), fewest)


def returning_trust(config: Config, silo: int, silos: int, told: Mapping[str, str]) -> Trust:
    """That of a silo whose process was started again alone; `told` is `what_returning_silos_are_told`.

    Not collective. Raises ConfigError where the silo cannot prove that it is itself.
    """
    trust = own_trust(config, silo, silos)
    if trust.signer is None:
        if not told["roster"]:
            raise ConfigError(
                f"the silos of this run know each other by secure.roster, and silo {silo} has none: set "
                "secure.identity and secure.roster as at the start"
            )
        # The kept keys and roster go before what is told; with a buddy, lost keys come from the key file.
        path = own_path(for_silo(config, silo), told["path"])
        trust = replace(trust, signer=returning_keys(config, path, silo, told["run"], told["roster"]))
    return trust


def what_returning_silos_are_told(
    trust: Trust, path: str, preprocessing: str, groups: Groups = ()
) -> dict[str, str]:
    """What a silo needs to read its data and to prove that it is itself, and gets before it has: no secret.

    `path` is the run directory, as other ranks are told of it; `preprocessing` is what is done to columns,
    where silos agreed on that, and `groups` those that their messages pass through.
    """
    signer = trust.signer
    roster = signer.roster.dumps() if signer is not None and signer.of_first_start else ""
    return {
        "path": path,
        "run": str(trust.run),
        "roster": roster,
        "preprocessing": preprocessing,
        "groups": json.dumps(groups),
    }


def agree_on_run(group: ElasticGroup, config: Config, path: Path, silos: int, *, resume: bool) -> Trust:
    """The trust of a run with its id: found again by a `resume`, else new. Collective, within a step.

    Raises CheckpointError where a manifest is not to be trusted, MismatchError where another version wrote
    what is there or a silo's log of releases or openings is of another run, ConfigError where a silo cannot
    prove that it is the one of the first start.
    """
    comm, silo = group.comm, group.silo_id
    with raise_on_all_ranks(comm):
        trust = own_trust(config, silo, silos)
        logs = _logs(path, silo) if resume else {}
        logged = next((of for of in logs.values() if of is not None), None)
        own = run_keys.kept(path, silo) if resume and trust.signer is None else KeptKeys()
    roster = common_roster(comm, path, own) if resume and trust.signer is None else None
    reading = trust if roster is None else replace(trust, signer=Signer(Identity.generate(), roster))
    found = found_run_id(comm, path / CHECKPOINTS, reading, logged) if resume else None
    run = found or new_run_id(comm)
    with raise_on_all_ranks(comm):
        for log, of in logs.items():
            if of not in (None, run):
                raise MismatchError(
                    f"{log} is of another run than the checkpoints: what was opened here, and what it spent "
                    "of privacy, is unknown; name another run directory with --run"
                )
    if trust.signer is not None:
        return trust.of_run(run)
    keys = prove_keys(comm, config, path, own, roster, run) if found else make_keys(comm, config, run)
    return replace(trust.of_run(run), signer=keys)


def _logs(path: Path, silo: int) -> dict[Path, str | None]:
    """A silo's logs, and the id of the run that each is of; MismatchError for another version's."""
    kinds = (release_log, opening_log, draw_log)
    return {one.log_path(path, silo): one.run_of_log(one.log_path(path, silo)) for one in kinds}


def refuse_leftovers(path: Path, silo: int) -> None:
    """Raise ConfigError where a new run's directory has rounds or logs of an old one: not collective."""
    rounds, _ = CheckpointDirectory(path / CHECKPOINTS, silo).manifests()
    kinds = (release_log, opening_log, draw_log)
    logs = [*(one.log_path(path, silo) for one in kinds), trail_path(path, silo)]
    if rounds or any(log.exists() for log in logs):
        raise ConfigError(
            f"{path} already holds a run: add --resume to go on with it, or name another with --run"
        )
