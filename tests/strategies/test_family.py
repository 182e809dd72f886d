"""What holds for every strategy that there is."""

from __future__ import annotations

import ast
import copy
import inspect
import sys
from dataclasses import fields, replace
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest

from silofl import config as configuration
from silofl import families
from silofl.checkpoint.tree import pack, unpack
from silofl.strategies import registry
from silofl.strategies.base import LocalRound, State, Strategy
from silofl.strategies.registry import STRATEGIES, build, strategy_of
from silofl.types import Contribution, Total

SIZE, SILOS = 97, 5
WHOLE, UNEVEN = [(0, SIZE)], [(0, 31), (31, 31), (31, 64), (64, SIZE)]
KINDS = [np.float32, np.float64]
EVERY = pytest.mark.parametrize("name", STRATEGIES)
OF_ANY_TYPE = pytest.mark.parametrize("kind", KINDS)


def example(name: str) -> Strategy:
    """One with all its machinery on: a field that is off by default is set to a value that is not."""
    kind: Any = STRATEGIES[name]
    return kind(**{field.name: _other(field) for field in fields(kind)})


def _other(field: Any) -> Any:
    """A value that is not the default, of its type."""
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, str):
        allowed = get_args(field.type) or ("other",)
        return next(one for one in allowed if one != field.default)
    if field.default is None or isinstance(field.default, float):
        return 0.5 if field.default != 0.5 else 0.25
    return field.default + 1 if isinstance(field.default, int) else 0.5


def examples(name: str) -> list[Strategy]:
    """That one, the defaults, and those with one field set."""
    kind: Any = STRATEGIES[name]
    return [example(name), kind(), *(kind(**{field.name: _other(field)}) for field in fields(kind))]


def draw(size: int, kind: Any, *seed: int) -> Any:
    return np.random.default_rng([5, *seed]).standard_normal(size).astype(kind)


def local_round(strategy: Strategy, kind: Any, *, resync: bool = False) -> LocalRound:
    shared = {name: draw(SIZE, kind, 1, at) for at, name in enumerate(strategy.shared)}
    state = strategy.local_init(SIZE, np.dtype(kind))
    state = {name: draw(SIZE, kind, 2, at) for at, name in enumerate(state)}
    start = {"start_loss": 0.6, "start_gradient": draw(SIZE, kind, 9)}
    return LocalRound(shared, state, lr=0.1, samples=7, resync=resync, **start)


def part_of(local: LocalRound, part: slice) -> LocalRound:
    shared, state = ({k: v[part] for k, v in of.items()} for of in (local.shared, local.state))
    return replace(local, shared=shared, state=state, start_gradient=local.start_gradient[part])


def contribute(strategy: Strategy, trained: Any, local: LocalRound) -> tuple[Contribution, State]:
    return strategy.contribute(trained.copy(), 3, 0.7, local)


def total_of(strategy: Strategy, kind: Any, part: slice, *, resync: bool) -> Total:
    """The mean of drawn rows, in a slice."""
    rows = {
        name: [draw(SIZE, kind, 3, at, silo)[part] for silo in range(SILOS)]
        for at, name in enumerate(strategy.sends)
    }
    mean = {name: np.mean(every, axis=0, dtype=np.float64).astype(kind) for name, every in rows.items()}
    scalars = dict.fromkeys(strategy.scalars, 1.5)
    total = Total(mean, scalars, SILOS, 7, resync, rows if strategy.needs == "rows" else None)
    if part != slice(SIZE):
        return replace(total, over_slices=total_of(strategy, kind, slice(SIZE), resync=resync).over_slices)
    return replace(total, over_slices=strategy.part({}, total))


def equal(a: Any, b: Any) -> bool:
    return set(a) == set(b) and all(a[k].tobytes() == b[k].tobytes() for k in a)


def test_the_folder_is_the_list() -> None:
    assert {"fedavg", "fedsgd"} <= set(STRATEGIES)
    assert not {"base", "registry"} & set(STRATEGIES)


@EVERY
def test_its_fields_are_documented_keys_whose_defaults_are_allowed(name: str) -> None:
    kind: Any = STRATEGIES[name]
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    documented = {
        node.target.id
        for node, after in zip(body, [*body[1:], None], strict=True)
        if isinstance(node, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    assert documented == {field.name for field in fields(kind)}
    section = configuration.parse({"strategy": {"name": name}}).strategy
    assert set(type(section).model_fields) == {"name", *(field.name for field in fields(kind))}
    assert build(section) == kind()
    explicit = {field.name: field.default for field in fields(kind)}
    assert configuration.parse({"strategy": {"name": name, **explicit}}).strategy == section


@EVERY
def test_it_says_what_it_is(name: str) -> None:
    kind = STRATEGIES[name]
    assert kind.shared[0] == "model"
    assert "update" in kind.sends
    assert not {"buffers"} & {*kind.shared, *kind.sends, *kind.scalars}  # are averaged beside it
    assert set(kind.sends.values()) <= {"samples", "uniform", "round"}
    assert kind.needs in ("sum", "rows")
    assert kind.local in ("train", "gradient", "masks")
    assert {one.at_start() for one in examples(name)} <= {"nothing", "loss", "gradient"}
    assert len((kind.__doc__ or "").splitlines()[0]) > 20


@pytest.mark.covering(1)
@EVERY
@OF_ANY_TYPE
@pytest.mark.parametrize("resync", [False, True])
def test_any_slicing_gives_the_same_bits(name: str, kind: Any, resync: bool) -> None:
    for strategy in examples(name):
        (shared, state), (pieced, pieces) = (
            steps(strategy, kind, spans, resync) for spans in (WHOLE, UNEVEN)
        )
        assert equal(shared, pieced)
        assert equal(state, pieces)
        assert all(values.dtype == kind for values in (*shared.values(), *state.values()))


def steps(strategy: Strategy, kind: Any, spans: Any, resync: bool) -> tuple[Any, Any]:
    """The shared vectors, and the whole state, after three steps of slices."""
    shared = {one: draw(SIZE, kind, 4, at) for at, one in enumerate(strategy.shared)}
    states = [strategy.init(stop - start, np.dtype(kind)) for start, stop in spans]
    for _ in range(3):
        for at, span in enumerate(spans):
            total = total_of(strategy, kind, slice(*span), resync=resync)
            views = {one: values[slice(*span)] for one, values in shared.items()}
            states[at] = strategy.step(states[at], views, total)
    return shared, {one: np.concatenate([state[one] for state in states]) for one in states[0]}


@EVERY
@OF_ANY_TYPE
@pytest.mark.parametrize("resync", [False, True])
def test_the_silos_half_knows_no_coordinate_of_another(name: str, kind: Any, resync: bool) -> None:
    strategy = example(name)
    local, trained, gradient = (
        local_round(strategy, kind, resync=resync),
        draw(SIZE, kind, 6),
        draw(SIZE, kind, 7),
    )
    corrected = gradient.copy()
    strategy.correct(corrected, trained, local)
    sent, state = contribute(strategy, trained, local)
    assert corrected.dtype == kind
    for span in UNEVEN:
        part = slice(*span)
        piece = gradient[part].copy()
        strategy.correct(piece, trained[part], part_of(local, part))
        assert piece.tobytes() == corrected[part].tobytes()
        sliced, own = contribute(strategy, trained[part], part_of(local, part))
        assert equal(sliced.vectors, {one: values[part] for one, values in sent.vectors.items()})
        assert equal(own, {one: values[part] for one, values in state.items()})


@EVERY
@OF_ANY_TYPE
def test_it_sends_what_it_says(name: str, kind: Any) -> None:
    strategy = example(name)
    local = local_round(strategy, kind)
    sent, state = contribute(strategy, draw(SIZE, kind, 6), local)
    assert set(sent.vectors) == set(strategy.sends)
    assert set(sent.scalars) == set(strategy.scalars)
    assert all(values.shape == (SIZE,) and values.dtype == kind for values in sent.vectors.values())
    assert sent.weight > 0
    initial = strategy.local_init(SIZE, np.dtype(kind))
    assert {one: (v.shape, v.dtype) for one, v in state.items()} == {
        one: (v.shape, v.dtype) for one, v in initial.items()
    }


@EVERY
@OF_ANY_TYPE
def test_it_changes_nothing_but_what_it_is_given_to_change(name: str, kind: Any) -> None:
    strategy = example(name)
    local, trained = local_round(strategy, kind), draw(SIZE, kind, 6)
    before, values = copy.deepcopy(local), trained.copy()
    strategy.correct(draw(SIZE, kind, 7), trained, local)
    assert trained.tobytes() == values.tobytes()
    sent, state = strategy.contribute(trained, 3, 0.7, local)  # `trained` alone may be written over
    assert equal(local.shared, before.shared)
    assert equal(local.state, before.state)
    assert local.start_gradient.tobytes() == before.start_gradient.tobytes()
    held = [*local.shared.values(), *local.state.values(), local.start_gradient]
    assert not any(np.shares_memory(a, b) for a in sent.vectors.values() for b in held)
    passing = [trained, local.start_gradient]  # are written over next round
    assert not any(np.shares_memory(a, b) for a in state.values() for b in passing)

    total = total_of(strategy, kind, slice(SIZE), resync=False)
    server = {one: abs(draw(SIZE, kind, 8)) for one in strategy.init(SIZE, np.dtype(kind))}
    told, kept = copy.deepcopy(total), copy.deepcopy(server)
    shared = {one: draw(SIZE, kind, 4) for one in strategy.shared}
    strategy.step(server, shared, total)
    assert equal(total.mean, told.mean)
    assert equal(server, kept)


@EVERY
def test_its_states_lie_in_a_checkpoint_as_they_are(name: str) -> None:
    strategy = example(name)
    local = local_round(strategy, np.float32)
    states = {
        "server": strategy.step(
            strategy.init(SIZE, np.dtype(np.float32)),
            {one: draw(SIZE, np.float32, 4) for one in strategy.shared},
            total_of(strategy, np.float32, slice(SIZE), resync=False),
        ),
        "silo": contribute(strategy, draw(SIZE, np.float32, 6), local)[1],
    }
    skeleton, arrays = pack(states)
    for name_of, state in unpack(skeleton, arrays).items():
        assert equal(state, states[name_of])
        assert all(isinstance(values, np.ndarray) and values.shape == (SIZE,) for values in state.values())


FROZEN = "@final\n@dataclass(frozen=True)\nclass A(Strategy):"


def module_of(source: str) -> ModuleType:
    module = ModuleType("mine")
    head = (
        "from dataclasses import dataclass\nfrom typing import final\n"
        "from silofl.strategies.base import Strategy\n"
    )
    exec(compile(head + source, "mine.py", "exec", dont_inherit=True), module.__dict__)
    return module


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", "defines 0 of Strategy"),
        ("class A(Strategy): ...\nclass B(Strategy): ...", "defines 2 of Strategy"),
        ("@final\nclass A(Strategy): ...", "frozen=True"),
        ("@final\n@dataclass\nclass A(Strategy): ...", "frozen=True"),
        ("@dataclass(frozen=True)\nclass A(Strategy): ...", "@final"),
        ("@final\n@dataclass(frozen=True)\nclass A(Strategy):\n    lr: float", "a default"),
        (f"{FROZEN}\n    sends = {{'control': 'uniform'}}", 'must send "update"'),
        (f"{FROZEN}\n    sends = {{'update': 'samples', 'buffers': 'samples'}}", 'leave out "buffers"'),
    ],
)
def test_a_file_that_is_no_strategy_is_refused(source: str, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        strategy_of(module_of(source))


def test_a_file_with_a_strategy_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "fedmine.py").write_text(
        "from dataclasses import dataclass\nfrom typing import final\n"
        "from silofl.strategies.base import Strategy\n"
        "@final\n@dataclass(frozen=True)\nclass FedMine(Strategy):\n    '''Mine.'''\n"
    )
    (tmp_path / "_words.py").write_text("raise RuntimeError")
    monkeypatch.setattr(registry.strategies, "__path__", [*registry.strategies.__path__, str(tmp_path)])
    found = families.modules_of(registry.strategies)
    assert issubclass(strategy_of(found["fedmine"]), Strategy)
    del sys.modules["silofl.strategies.fedmine"]
    assert set(found) == {*STRATEGIES, "fedmine"}
