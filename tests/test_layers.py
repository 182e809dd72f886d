"""The house: a floor imports only floors below it, and each library lives on its own floor."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = {
    "silofl_kernels": set(),
    "silofl.errors": {"silofl.console"},
    "silofl.types": set(),
    "silofl.background": set(),
    "silofl.startup": set(),
    "silofl.faults": set(),
    "silofl.console": set(),
    "silofl.private_files": set(),
    "silofl.silo_log": {"silofl.console", "silofl.private_files"},
    "silofl.launcher": {"silofl.errors", "silofl.console"},
    "silofl.constrained": set(),
    "silofl.families": set(),
    "silofl.strategies": {"silofl.errors", "silofl.types", "silofl.constrained", "silofl.families"},
    "silofl.personal": {
        *("silofl.errors", "silofl.types", "silofl.constrained", "silofl.families"),
        "silofl.strategies",
    },
    "silofl.compression": {
        *("silofl.errors", "silofl.types", "silofl.constrained", "silofl.families"),
        "silofl_kernels",
    },
    "silofl.pruning": {
        *("silofl.errors", "silofl.types", "silofl.constrained", "silofl.families"),
    },
    "silofl.privacy.places": {"silofl.transforms", "silofl_kernels"},
    "silofl.robust": {
        *("silofl.errors", "silofl.types", "silofl.constrained", "silofl.families"),
        "silofl_kernels",
    },
    "silofl.detection": {"silofl.types", "silofl_kernels"},
    "silofl.attacks": {"silofl.errors", "silofl.types", "silofl.constrained", "silofl.families"},
    "silofl.mixing": {"silofl.constrained", "silofl.families"},
    "silofl.topologies.arrangements": {
        *("silofl.errors", "silofl.constrained", "silofl.families", "silofl.mixing"),
    },
    "silofl.config": {
        *("silofl.errors", "silofl.faults", "silofl.constrained", "silofl.strategies"),
        *("silofl.privacy.places", "silofl.personal", "silofl.compression", "silofl.pruning"),
        *("silofl.robust", "silofl.attacks"),
        "silofl.topologies.arrangements",
    },
    "silofl.crypto": {
        *("silofl_kernels", "silofl.errors", "silofl.types", "silofl.config"),
        "silofl.private_files",
    },
    "silofl.privacy": {
        *("silofl_kernels", "silofl.errors", "silofl.types", "silofl.config"),
        "silofl.privacy.places",
    },
    "silofl.comm": {"silofl.errors", "silofl.types", "silofl.config", "silofl.console", "silofl.launcher"},
    "silofl.aggregation": {
        *("silofl_kernels", "silofl.errors", "silofl.types", "silofl.config"),
        *("silofl.background", "silofl.crypto", "silofl.privacy", "silofl.comm", "silofl.transforms"),
        "silofl.compression",
    },
    "silofl.transforms": {
        *("silofl_kernels", "silofl.errors", "silofl.types", "silofl.config"),
        *("silofl.crypto", "silofl.privacy"),
    },
    "silofl.topologies": {
        *("silofl.errors", "silofl.types", "silofl.config"),
        *("silofl.comm", "silofl.aggregation", "silofl.strategies", "silofl.topologies.arrangements"),
        "silofl.robust",
        "silofl.detection",
        "silofl.mixing",
    },
    "silofl.report": {
        *("silofl_kernels", "silofl.errors", "silofl.console", "silofl.launcher", "silofl.config"),
        *("silofl.types", "silofl.comm", "silofl.__version__"),
    },
    "silofl.tasks": {
        *("silofl_kernels", "silofl.errors", "silofl.types", "silofl.config"),
        *("silofl.private_files", "silofl.console"),
    },
    "silofl.inference": {
        *("silofl.errors", "silofl.types", "silofl.config", "silofl.checkpoint", "silofl.tasks"),
        *("silofl.training", "silofl.__version__"),
    },
    "silofl.training": {
        *("silofl_kernels", "silofl.errors", "silofl.types", "silofl.config"),
        *("silofl.privacy", "silofl.tasks", "silofl.transforms", "silofl.pruning"),
    },
    "silofl.checkpoint": {
        *("silofl.errors", "silofl.types", "silofl.config"),
        *("silofl.background", "silofl.private_files", "silofl.crypto", "silofl.comm"),
    },
}
"""What each package may import of ours, besides itself; the run's floor, not listed, may import all."""

WINGS = {
    "silofl.federation.privacy": {
        *("silofl.federation.silo", "silofl.federation.local_work", "silofl.federation.stateful"),
        "silofl.federation.own_log",
    },
    "silofl.federation.own_log": set[str](),
    "silofl.federation.stateful": set[str](),
    "silofl.federation.silo": {
        *("silofl.federation.local_work", "silofl.federation.task_data", "silofl.federation.own_model"),
        *("silofl.federation.strategy_half", "silofl.federation.first_models"),
        *("silofl.federation.script_rules", "silofl.federation.background_training"),
        *("silofl.federation.silo_clients", "silofl.federation.backdoor_metric"),
    },
    "silofl.federation.backdoor_metric": set[str](),
    "silofl.federation.background_training": set[str](),
    "silofl.federation.first_models": set[str](),
    "silofl.federation.script_rules": set[str](),
    "silofl.federation.silo_clients": set[str](),
    "silofl.federation.strategy_half": {"silofl.federation.local_work"},
    "silofl.federation.own_model": {"silofl.federation.local_work"},
    "silofl.federation.task_data": set[str](),
    "silofl.federation.failure.membership_tracker": {"silofl.federation.stateful"},
    "silofl.federation.failure.respawn_policy": {
        *("silofl.federation.stateful", "silofl.federation.failure.admission")
    },
    "silofl.federation.failure.admission": set[str](),
    "silofl.federation.failure.policy": set[str](),
    "silofl.federation.failure.fault_injector": set[str](),
}
"""What of the federation these parts of it may import, besides themselves: none knows the loop."""

HOMES = {
    "mpi4py": ["silofl/comm/"],
    "torch": [
        "silofl/tasks/",
        "silofl/training/",
        "silofl/federation/",
        "silofl/inference/",
        "silofl/report/",
        "silofl/bench/",
        "silofl/audit/",
        "silofl/privacy_attacks/",
        "silofl/preload.py",
    ],
    "cryptography": ["silofl/crypto/", "silofl/bench/"],
    "numba": ["kernels/", "silofl/bench/", "silofl/preload.py"],
    "llvmlite": ["kernels/"],
    "dp_accounting": ["silofl/privacy/"],
    "opacus": ["silofl/training/", "silofl/bench/"],
    "typer": ["silofl/cli", "silofl/bench/cli"],
}
"""Where a library may be imported."""


@cache
def modules() -> list[Path]:
    return sorted([*ROOT.glob("silofl/**/*.py"), *ROOT.glob("kernels/**/*.py")])


@cache
def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} has a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package(name: str) -> str:
    """`silofl.comm.mpi` belongs to `silofl.comm`, `silofl_kernels.aes` to `silofl_kernels`."""
    for inner in ("silofl.privacy.places", "silofl.topologies.arrangements"):
        if name.startswith(inner):  # which the configuration reads, and which needs none
            return inner
    parts = name.split(".")
    return parts[0] if parts[0] != "silofl" else ".".join(parts[:2])


def name_of(path: Path) -> str:
    inside = path.relative_to(ROOT / "kernels") if "kernels" in path.parts else path.relative_to(ROOT)
    return ".".join(inside.with_suffix("").parts).removesuffix(".__init__")


OURS = {name_of(path) for path in modules()}


def test_imports_go_downwards() -> None:
    reached = {name_of(path): above(path) for path in modules() if package(name_of(path)) in FLOORS}
    assert not {name: sorted(others) for name, others in reached.items() if others}


def above(path: Path) -> set[str]:
    """Packages of ours that a file imports and its floor may not."""
    home = package(name_of(path))
    ours = {package(name) for name in imported(path) if name.split(".")[0] in ("silofl", "silofl_kernels")}
    return ours - FLOORS[home] - {home, "silofl"}


@pytest.mark.parametrize("wing", WINGS)
def test_a_part_of_the_federation_does_not_know_the_whole(wing: str) -> None:
    for path in modules():
        name = name_of(path)
        if name == wing or name.startswith(f"{wing}."):
            ours = {one for one in run_time(path) if one.startswith("silofl.federation")}
            above = {one for one in ours - WINGS[wing] if one != wing and not one.startswith(f"{wing}.")}
            assert not above, f"{name} reaches {sorted(above)}"


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_at_home_only(library: str) -> None:
    guests = [
        str(path.relative_to(ROOT))
        for path in modules()
        if any(name.split(".")[0] == library for name in imported(path))
        and not str(path.relative_to(ROOT)).startswith(tuple(HOMES[library]))
    ]
    assert not guests


def test_one_module_alone_imports_mpi4py() -> None:
    files = [path for path in modules() if "mpi4py" in path.read_text()]
    names = [name_of(path) for path in files if any(n.split(".")[0] == "mpi4py" for n in run_time(path))]
    assert names == ["silofl.comm.mpi_library"]


@cache
def run_time(path: Path) -> set[str]:
    """Imports outside `if TYPE_CHECKING:`."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = [ast.Pass()]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & OURS
            names |= inside | ({node.module} if len(inside) < len(node.names) else set())
    return names


def test_what_is_checked_before_torch_is_loaded_needs_neither_it_nor_the_compiler() -> None:
    """The command, and all that ranks settle before they have a task: imports that run at once."""
    todo, seen = ["silofl.cli", "silofl.federation.entry", "silofl.federation.preparation"], set[str]()
    paths = {name_of(path): path for path in modules()}
    while todo:
        name = todo.pop()
        packages = {name.rsplit(".", k)[0] for k in range(name.count(".") + 1)}
        for one in packages & paths.keys() - seen:
            seen.add(one)
            names = at_once(paths[one])
            heavy = {other for other in names if other.split(".")[0] in ("torch", "numba", "silofl_kernels")}
            assert not heavy, f"{one} loads {sorted(heavy)}"
            todo += [other for other in names if other in OURS]


def at_once(path: Path) -> set[str]:
    """Imports at the top of a module, outside of conditions and functions."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names} & OURS
    return names


def test_nothing_of_ours_is_imported_in_a_circle() -> None:
    graph = {name_of(path): run_time(path) for path in modules()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for other in graph.get(name, ()):
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())
