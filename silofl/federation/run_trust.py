"""Which run this is, and whose checkpoints of it are believed."""

from __future__ import annotations

from pathlib import Path

from silofl.aggregation.protocols import choose_protocol
from silofl.checkpoint import opening_log
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.run_id import found_run_id, new_run_id
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config, for_silo
from silofl.crypto.signer import configured_signer
from silofl.errors import ConfigError, MismatchError
from silofl.federation.privacy import release_log

CHECKPOINTS = "checkpoints"


def own_trust(config: Config, silo: int, silos: int, run: str | None = None) -> Trust:
    """This silo's, by its identity and roster; ConfigError where they do not fit. Not collective."""
    fewest = choose_protocol(config.secure, silos).fewest(config.secure, silos)
    secure = for_silo(config, silo).secure
    return Trust(run, configured_signer(secure, silo, silos), fewest)


def agree_on_run(group: ElasticGroup, config: Config, path: Path, silos: int, *, resume: bool) -> Trust:
    """The trust of a run with its id: found again by a `resume`, else new. Collective, within a step.

    Raises CheckpointError where a manifest is not to be trusted, MismatchError where another version wrote
    what is there or a silo's log of releases or openings is of another run.
    """
    comm, silo = group.comm, group.silo_id
    with raise_on_all_ranks(comm):
        trust = own_trust(config, silo, silos)
        logs = _logs(path, silo) if resume else {}
        logged = next((of for of in logs.values() if of is not None), None)
    found = found_run_id(comm, path / CHECKPOINTS, trust, logged) if resume else None
    run = found or new_run_id(comm)
    with raise_on_all_ranks(comm):
        for log, of in logs.items():
            if of not in (None, run):
                raise MismatchError(
                    f"{log} is of another run than the checkpoints: what was opened here, and what it spent "
                    "of privacy, is unknown; name another run directory with --run"
                )
    return trust.of_run(run)


def _logs(path: Path, silo: int) -> dict[Path, str | None]:
    """A silo's logs, and the id of the run that each is of; MismatchError for another version's."""
    releases, openings = release_log.log_path(path, silo), opening_log.log_path(path, silo)
    return {releases: release_log.run_of_log(releases), openings: opening_log.run_of_log(openings)}


def refuse_leftovers(path: Path, silo: int) -> None:
    """Raise ConfigError where a new run's directory has rounds or logs of an old one: not collective."""
    rounds, _ = CheckpointDirectory(path / CHECKPOINTS, silo).manifests()
    logs = (release_log.log_path(path, silo), opening_log.log_path(path, silo))
    if rounds or any(log.exists() for log in logs):
        raise ConfigError(
            f"{path} already holds a run: add --resume to go on with it, or name another with --run"
        )
