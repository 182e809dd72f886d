"""Where a job's silos run: on hosts that its command names, or each on its institution's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from silofl.config.settings import Settings
from silofl.errors import ConfigError
from silofl.launcher.hosts import Host, is_local, named_hosts


def hosts_of(settings: Settings, option: str | None, file: Path | None, silos: int) -> tuple[Host, ...]:
    """The hosts of a job in the order of its silos: of institutions, `--host` or `--hostfile`; none of none.

    Neighbours on one host are one entry. ConfigError where institutions and the command both name hosts, and
    errors of `named_hosts`.
    """
    own = settings.hosts()
    if own and (option is not None or file is not None):
        raise ConfigError(
            "institutions have hosts, and --host or --hostfile names others: leave out one of the two"
        )
    if not own:
        return named_hosts(option, file, silos)
    return tuple(Host(name, len(list(some))) for name, some in groupby(own))


def silos_here(settings: Settings, silos: int, hosts: Sequence[Host], *, one_node: bool) -> Iterable[int]:
    """The silos whose files are this machine's, as far as that can be known before they start.

    `one_node`: whether the launcher, where no hosts are named, starts all ranks here.
    """
    if settings.hosts():
        return [number for number, name in enumerate(settings.hosts()) if is_local(name)]
    return range(silos) if one_node and not hosts else ()
