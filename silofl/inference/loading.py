"""`silofl.load`: from a run directory or a model file to a model that can be used."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from silofl.config import Config, DataConfig, RunConfig, TaskConfig, TrainConfig
from silofl.errors import ConfigError, DataError
from silofl.inference.model_card import ModelCard, read_card
from silofl.inference.trained_model import TrainedModel
from silofl.tasks import registry
from silofl.tasks.base import Task
from silofl.tasks.checks import model_of, task_of
from silofl.tasks.factory_source import named, path_with
from silofl.tasks.files import Files
from silofl.tasks.readers.rows import some
from silofl.training.flat import DTYPES
from silofl.training.slots import plain_name

SHARED, PERSONAL = "model.safetensors", "personal.safetensors"


def load(
    source: str | os.PathLike[str],
    silo: int | None = None,
    *,
    task: Task | type[Any] | str | None = None,
    device: str | torch.device = "cpu",
) -> TrainedModel:
    """Load a trained model, with all that is done to raw features before it.

        model = silofl.load("runs/hospitals")
        model.predict({"age": [71, 46], "glucose": [5.1, 7.9]})
        model.predict_proba(frame)                     # a pandas DataFrame: columns by name
        silofl.load("runs/hospitals", silo=2)          # the personal model of a silo
        silofl.load("model.safetensors", task="wine:Wine")

    Args:
        source: a run directory, or a model file of one.
        silo: whose personal model to load from a run directory; the shared model when None.
        task: your own task, its class, or `module:Class` as in `task.factory`. Needed for a model file of a
            task of your own, for a file never says which code is run; a run directory's configuration may.
        device: where the model is to be.

    Raises:
        DataError: there is no such file, or its tensors do not fit the model.
        ConfigError: the task is needed and not given, or cannot be had.
    """
    path, run = _file(Path(source), silo)
    card = read_card(path)
    built = _task(card, task, path, trusted=run is not None and _says_the_run(run, card))
    tensors = _tensors(path)
    network = _network(card, built)
    _fill(network, tensors, path, card)
    kind = card.section(TrainConfig).dtype
    model = TrainedModel(card, network.to(DTYPES[kind]) if kind != "float32" else network, built)
    return model.to(torch.device(device)).eval()


def _says_the_run(run: Path, card: ModelCard) -> bool:
    """Whether the configuration in a run directory names the task of a model, and its options.

    Not where the code would come from the directory itself, as from one that somebody else has packed.
    """
    try:
        task = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["task"]
        chosen = card.section(TaskConfig)
        same = (task.get("factory"), task.get("options", {})) == (chosen.factory, chosen.options)
        return same and not (chosen.factory and _brings(run, chosen.factory))
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _brings(run: Path, factory: str) -> bool:
    """Whether the module of a task would be looked for in a run directory."""
    module, _ = named(factory)
    found = (Path(entry, *module.split(".")).resolve() for entry in path_with(str(Path.cwd())))
    return any(place.is_relative_to(run.resolve()) for place in found)


def _file(source: Path, silo: int | None) -> tuple[Path, Path | None]:
    """The model file, and the run directory where one was named. Raises DataError where there is none."""
    if source.is_file():
        if silo is not None:
            raise ConfigError(
                f"{source} is one file, which has one model: name the run directory for silo {silo}"
            )
        return source, None
    if not source.is_dir():
        raise DataError(f"there is no run or model {source}: name a run directory, such as runs/digits")
    path = source / SHARED if silo is None else source / f"silo-{silo:04d}" / PERSONAL
    if path.is_file():
        return path, source
    there = personal_models(source)
    if silo is not None:
        known = f"there are those of silos {some([*map(str, there)])}" if there else "the run has none here"
        raise DataError(f"{source} has no personal model of silo {silo}: {known}")
    if there and (source / "summary.json").exists():
        known = f"those of silos {some([*map(str, there)])}"
        raise DataError(f"{source} has no {SHARED}: its silos have models of their own alone, here {known}")
    if (source / "config.toml").exists():
        raise DataError(f"{source} has no {SHARED}: the run has not ended; go on with it by --resume")
    raise DataError(f"{source} has no {SHARED}: name the run directory of the silo that led the run")


def personal_models(run: Path) -> list[int]:
    """The silos whose personal models lie in a run directory, ascending."""
    found = (one.parent.name.removeprefix("silo-") for one in run.glob(f"silo-*/{PERSONAL}"))
    return sorted(int(number) for number in found if number.isdecimal())


def _task(card: ModelCard, given: Any, path: Path, *, trusted: bool) -> Task:
    """The task: that given, or that of the configuration. `trusted`: whether a task's code may be run."""
    config = _config(card)
    if isinstance(given, str):
        return registry.build(_config(card, given), alone=True, classes_only=True)
    if isinstance(given, type):
        given = given(**config.task.options)
    if given is not None:
        return task_of(given, f"the task {type(given).__name__}")
    if card.own and (card.given or not trusted):
        called = card.task if not card.given else "module:Class"
        raise ConfigError(
            f"{path} is a model of {card.task}, a task that is code of your own, which a file never runs by "
            f'itself: name it, as by silofl.load(..., task="{called}") or --task {called}'
        )
    return registry.build(config, alone=True, classes_only=True)


def _config(card: ModelCard, factory: str | None = None) -> Config:
    """As much of the run's configuration as makes a task."""
    task = card.section(TaskConfig)
    if factory is not None:
        task = task.model_copy(update={"factory": factory})
    data = card.section(DataConfig)
    if task.name == "files" and not task.factory:
        data = data.model_copy(update={"path": "unread"})
    run = RunConfig(seed=card.seed)
    return Config.model_construct(run=run, task=task, data=data, train=card.section(TrainConfig))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors, it is damaged ({error})") from None


def _network(card: ModelCard, task: Task) -> nn.Module:
    """The untrained model; of a built-in task without memory for its tensors, which are the file's."""
    if isinstance(task, Files):
        task.expect(card.shape)
        if card.preprocessing is not None:
            task.agree(card.preprocessing)
    if card.own or type(task).__module__.partition(".")[0] != __name__.partition(".")[0]:
        return model_of(task.model(), 0)
    with torch.device("meta"):
        return model_of(task.model(), 0)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether shapes are the same, and both are numbers with a point or neither is."""
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()


def _fill(network: nn.Module, tensors: dict[str, Tensor], path: Path, card: ModelCard) -> None:
    """Load tensors by name. Raises DataError, naming some, where they do not fit."""
    state = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    by_name = {plain_name(name): name for name in state}
    lost = [name for name in by_name if name not in tensors]
    kept = [name for name in lost if card.silo is None]
    unknown = [name for name in tensors if name not in by_name]
    unlike = [name for name in by_name if name in tensors and not _alike(tensors[name], state[by_name[name]])]
    if unknown or unlike:
        raise DataError(
            f"{path} does not fit the model of {card.task}, which has other tensors than "
            f"{some(unknown or unlike)}: the task's code, or its options, are not those of the run"
        )
    if lost:
        folder = path.parent
        there = f"; load one by silo=K from {folder}" if kept and personal_models(folder) else ""
        raise DataError(
            f"{path} has no {some(lost)}, which stay with each silo, or which the task's code has now and "
            f"not in the run: the shared model alone cannot be used{there}"
        )
    meta = any(value.is_meta for value in state.values())
    network.load_state_dict(
        {by_name[name]: value for name, value in tensors.items()}, assign=meta, strict=False
    )
