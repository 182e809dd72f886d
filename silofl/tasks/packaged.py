"""The data sets that come with scikit-learn, read without loading it: that takes half a second."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import MissingDependencyError

Table = tuple[NDArray[np.float64], NDArray[np.int64]]


def read(name: str, *, header_lines: int = 0) -> Table:
    """Features (n, k) and labels (n,) of a table `name`, whose last column is the label.

    Raises MissingDependencyError where this scikit-learn has no such file.
    """
    package = find_spec("sklearn")
    folders: Any = package.submodule_search_locations if package else None
    path = Path(folders[0], "datasets", "data", name) if folders else None
    if path is None or not path.is_file():
        raise MissingDependencyError(
            f"scikit-learn's data set {name} is not there: install scikit-learn again, or train on "
            'data of your own by task.name = "files"'
        )
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        table = np.loadtxt(lines, delimiter=",", skiprows=header_lines)
    return table[:, :-1], table[:, -1].astype(np.int64)
