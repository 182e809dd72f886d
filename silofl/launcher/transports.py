"""Transports that Open MPI loads, unless the user or the site has chosen them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

TRANSPORTS = "OMPI_MCA_btl"
WITHOUT_OFI = "^ofi"


def exclude_ofi_transport(environ: MutableMapping[str, str], library: str | None) -> None:
    """Exclude the transport `ofi` of the Open MPI installed beside this Python; call before MPI_Init.

    It carries one-sided communication, which silofl does not use, and sleeps for a second when it is closed
    (`mca_btl_ofi_component_close`, Open MPI 5.0). A site's own MPI keeps its transports, and so does one
    whose transports are set by a variable, by mpirun's --mca or in a file.
    """
    if library is None or not Path(library).is_relative_to(sys.prefix) or TRANSPORTS in environ:
        return
    if "libmpi.so.40" in library and not any(map(_sets_transports, _settings_files(environ, library))):
        environ[TRANSPORTS] = WITHOUT_OFI


def _settings_files(environ: Mapping[str, str], library: str) -> list[Path]:
    """Files from which Open MPI reads settings."""
    own = Path(environ.get("HOME", "/"), ".openmpi", "mca-params.conf")
    return [own, Path(library).parent.parent / "etc" / "openmpi-mca-params.conf"]


def _sets_transports(path: Path) -> bool:
    try:
        return re.search(r"^\s*btl\s*=", path.read_text(errors="replace"), re.MULTILINE) is not None
    except OSError:
        return False
