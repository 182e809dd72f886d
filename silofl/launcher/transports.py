"""Which transports Open MPI loads: a pure function of its settings."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

TRANSPORTS = "OMPI_MCA_btl"
WITHOUT_ONE_SIDED = "^ofi"


def leave_out_one_sided(environ: MutableMapping[str, str], library: str | None) -> None:
    """Before MPI_Init: spare it a second with the Open MPI that was installed beside this Python.

    Its transport `ofi` carries one-sided communication, which silofl does not use, and sleeps for a second
    when it is closed (`mca_btl_ofi_component_close`, Open MPI 5.0). A site's own MPI, and whoever chose
    transports by a variable, by mpirun's --mca or in a file, keep what they have.
    """
    if library is None or not Path(library).is_relative_to(sys.prefix) or TRANSPORTS in environ:
        return
    if "libmpi.so.40" in library and not any(map(_chooses, _files(environ, library))):
        environ[TRANSPORTS] = WITHOUT_ONE_SIDED


def _files(environ: Mapping[str, str], library: str) -> list[Path]:
    """Where Open MPI looks for settings."""
    own = Path(environ.get("HOME", "/"), ".openmpi", "mca-params.conf")
    return [own, Path(library).parent.parent / "etc" / "openmpi-mca-params.conf"]


def _chooses(path: Path) -> bool:
    try:
        return re.search(r"^\s*btl\s*=", path.read_text(errors="replace"), re.MULTILINE) is not None
    except OSError:
        return False
