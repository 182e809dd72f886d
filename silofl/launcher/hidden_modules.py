"""Modules that a user's file of the same name hides, where an import has failed of it.

It imports next to nothing itself, for what it needs may be what is hidden.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from types import TracebackType

_PACKAGES = ("site-packages", "dist-packages")


def hidden_module(error: ImportError | AttributeError) -> str:
    """Which file hides a module of Python or of an installed package, and the remedy; empty where none does.

    A file counts that is imported under such a name, or that the error's traceback passes through.
    """
    files = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
    files += [(os.path.basename(file).removesuffix(".py"), file) for file in _passed(error.__traceback__)]
    for name, file in files:
        if not file or "." in name or _installed(file):
            continue
        owner = "Python" if name in sys.stdlib_module_names else "an installed package"
        if name in sys.stdlib_module_names or _installed_twin(name):
            return (
                f"{file} hides the module {name} of {owner}, which silofl or a library of it needs: "
                "rename it, or take its folder out of PYTHONPATH"
            )
    return ""


def _passed(trace: TracebackType | None) -> list[str]:
    files = []
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return files


def _installed(file: str) -> bool:
    """Whether a file lies where Python keeps its own modules, or an installer those of packages."""
    folders = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    inside = any(file.startswith(os.path.join(folder, "")) for folder in folders)
    return inside or file.startswith("<") or any(f"{os.sep}{name}{os.sep}" in file for name in _PACKAGES)


def _installed_twin(name: str) -> bool:
    """Whether a folder of installed packages has a module of this name, too."""
    folders = [folder for folder in sys.path if os.path.basename(folder) in _PACKAGES]
    return any(os.path.exists(os.path.join(folder, name + end)) for folder in folders for end in ("", ".py"))
