"""What silos begin with: the task's model, and more of them where a strategy has several shared models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from glob import escape
from math import prod

import numpy as np
from torch import nn

from silofl.comm.collective_errors import allgather_parsed
from silofl.comm.protocol import Communicator
from silofl.config import Config
from silofl.errors import ConfigError, DataError, MismatchError
from silofl.strategies.base import Strategy
from silofl.tasks.base import Task
from silofl.tasks.checks import model_of
from silofl.tasks.user_code import UserCode
from silofl.training.flat import FlatModel
from silofl.training.given_weights import GivenWeights
from silofl.training.seeding import INITIAL_MODEL, derive, seed_everything
from silofl.types import Vector

Draw = Callable[[int], nn.Module]
Starts = dict[str, Vector]


DRAWING = threading.Lock()
"""Torch has one generator for all threads, and silos that are threads draw one model."""


def drawn(
    task: Task,
    seed: int,
    code: UserCode,
    place: int,
    *,
    weights: GivenWeights | None = None,
    private: Callable[[nn.Module], Sequence[str]] = lambda module: (),
) -> nn.Module:
    """The model for a place among those that silos share, the same on all silos; with given `weights`.

    `private` gives the patterns of what stays with silos, which given weights need not have.
    """
    with DRAWING:
        seed_everything(derive(seed, INITIAL_MODEL, place))
        with code.calling("model", task.model):
            made = model_of(task.model(), code.silo)
    if weights is not None:
        weights.put_into(made, private(made))
    return made


def agree_on_weights(comm: Communicator, digest: str) -> None:
    """Refuse silos that were given other weights than rank 0; collective. `digest` is empty for none."""
    told = allgather_parsed(comm, digest, str, "the weights that it was given")
    error = weights_mismatch(dict(zip(comm.members, told, strict=True)))
    if error is not None:
        raise error


def weights_mismatch(digests: Mapping[int, str]) -> MismatchError | None:
    """The error of silos that were given other weights than the first, from the digests of each."""
    first, *others = digests
    other = next((silo for silo in others if digests[silo] != digests[first]), None)
    if other is None:
        return None
    return MismatchError(
        f"task.weights of silo {other} is another file than silo {first}'s: give all silos the same one",
        rank=0,
    )


def refuse_clusters(config: Config, strategy: Strategy, model: FlatModel, number: int, silos: int) -> None:
    """Raise ConfigError where silos or the model cannot have several models, naming key and remedy."""
    count = len(strategy.models)
    if count == 1:
        return
    key = f'silo {number}: strategy.name = "{config.strategy.name}"'
    if count > silos:
        remedy = f"strategy.clusters to {silos} or less" if silos > 1 else 'strategy.name = "fedavg"'
        raise ConfigError(
            f"{key} has {count} models, and each of {silos} silos takes one: set {remedy}", rank=number
        )
    if model.buffer_names:
        raise ConfigError(
            f"{key} has {count} models, and buffers such as {model.buffer_names[0]} would be averaged over "
            'all silos: set train.batch_norm = "recomputed" or "local", and register others with '
            "persistent=False",
            rank=number,
        )


def starts_of(config: Config, strategy: Strategy, model: FlatModel, draw: Draw, number: int) -> Starts:
    """What all of `Strategy.models` but the first begin with, by name, (P,) each; equal on all silos.

    Args:
        model: as it is built, which the first begins with.
        draw: the task's model as it is built under the seed of a number, 0 for that of `model`.
        number: of the silo, for errors.

    Raises:
        DataError: another seed gives a model of other tensors.
        ConfigError: two begin alike, and would stay so; or the strategy has masks, and the model buffers.
    """
    _refuse_buffers(config, strategy, model, number)
    found = {strategy.models[0]: _parameters(model)}
    for place, name in enumerate(strategy.models[1:], 1):
        found[name] = _start(config, strategy, model, draw, place, number)
        if any(np.array_equal(found[name], one) for other, one in found.items() if other != name):
            raise ConfigError(
                f'silo {number}: strategy.name = "{config.strategy.name}" needs models that start unlike, '
                "and the task builds one under every seed: set strategy.start_noise, such as 0.1",
                rank=number,
            )
    del found[strategy.models[0]]
    return found | dict(strategy.begin(_tensors(model)))


def _start(
    config: Config, strategy: Strategy, model: FlatModel, draw: Draw, place: int, number: int
) -> Vector:
    untrained = draw(place)
    if untrained is model.module:  # the task has one for all calls
        drawn = _parameters(model)
    else:
        private = tuple(map(escape, model.private_names))
        other = FlatModel(untrained, model.vector.dtype, model.vector.device, private)
        if other.shapes != model.shapes:
            raise DataError(
                f"silo {number}: the task's model() has other tensors under another seed, and "
                f'strategy.name = "{config.strategy.name}" needs several of one kind: let it depend on no '
                "random choice but for its values",
                rank=number,
            )
        drawn = _parameters(other)
    seeds = [config.run.seed, INITIAL_MODEL, place]
    return strategy.start(drawn, np.random.default_rng(seeds))


def first_values(untrained: Vector, starts: Mapping[str, Vector]) -> Vector:
    """What the shared model (d,) begins with: the untrained one, written over where `starts` have another."""
    model = starts.get("model", untrained[:0])
    untrained[: len(model)] = model
    return untrained


def _tensors(model: FlatModel) -> list[Vector]:
    """The parameters, each in its shape; complex ones as a vector of twice as many values."""
    parts = np.split(_parameters(model), model.tensor_ends[:-1])
    return [
        part.reshape(shape if part.size == prod(shape) else -1)
        for part, shape in zip(parts, model.tensor_shapes, strict=True)
    ]


def _refuse_buffers(config: Config, strategy: Strategy, model: FlatModel, number: int) -> None:
    """Raise ConfigError where a mean network would have the buffers of masked ones."""
    if strategy.local == "masks" and model.buffer_names:
        raise ConfigError(
            f'silo {number}: strategy.name = "{config.strategy.name}" evaluates the mean of masked networks, '
            f"and buffers such as {model.buffer_names[0]} would be those of masked ones: choose another "
            "strategy, or a model whose layers keep no statistics, such as nn.GroupNorm",
            rank=number,
        )


def _parameters(model: FlatModel) -> Vector:
    values = np.empty(model.size, model.wire_dtype)
    model.store(values)
    return values[: model.trainable].copy()
