"""Transports and collectives that Open MPI loads, unless the user or the site has chosen them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from silofl.launcher.detection import fault_tolerance_enabled

TRANSPORTS = "OMPI_MCA_btl"
WITHOUT_OFI = "^ofi"
COLLECTIVES = "OMPI_MCA_coll"
WITHOUT_HAN = "^hcoll,portals4,han"
"""The first two are what Open MPI itself leaves out under ULFM."""


def exclude_ofi_transport(environ: MutableMapping[str, str], library: str | None) -> None:
    """Exclude the transport `ofi` of the Open MPI installed beside this Python; call before MPI_Init.

    It carries one-sided communication, which silofl does not use, and sleeps for a second when it is closed
    (`mca_btl_ofi_component_close`, Open MPI 5.0). A site's own MPI keeps its transports, and so does one
    whose transports are set by a variable, by mpirun's --mca or in a file.
    """
    if library is None or not Path(library).is_relative_to(sys.prefix) or TRANSPORTS in environ:
        return
    if "libmpi.so.40" in library and not _set_in_file("btl", environ, library):
        environ[TRANSPORTS] = WITHOUT_OFI


def exclude_unsafe_collectives(environ: MutableMapping[str, str], library: str | None) -> None:
    """Exclude HAN, Open MPI's collectives across hosts, where ranks may fail; call before MPI_Init.

    Its authors name it as not fault-tolerant (open-mpi/ompi #13915): survivors of a rank that died in it may
    hang. What is set by a variable, by mpirun's --mca or in a file stays.
    """
    if library is None or "libmpi.so.40" not in library or not fault_tolerance_enabled(environ):
        return
    if COLLECTIVES not in environ and not _set_in_file("coll", environ, library):
        environ[COLLECTIVES] = WITHOUT_HAN


def _set_in_file(framework: str, environ: Mapping[str, str], library: str) -> bool:
    return any(_sets(path, framework) for path in _settings_files(environ, library))


def _settings_files(environ: Mapping[str, str], library: str) -> list[Path]:
    """Files from which Open MPI reads settings."""
    own = Path(environ.get("HOME", "/"), ".openmpi", "mca-params.conf")
    return [own, Path(library).parent.parent / "etc" / "openmpi-mca-params.conf"]


def _sets(path: Path, framework: str) -> bool:
    try:
        return re.search(rf"^\s*{framework}\s*=", path.read_text(errors="replace"), re.MULTILINE) is not None
    except OSError:
        return False
