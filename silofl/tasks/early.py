"""What [task] and [data] are refused for, and what is read of them, before torch is loaded."""

from __future__ import annotations

from silofl.config import Config, silo_path
from silofl.errors import ConfigError
from silofl.tasks.factory_source import refuse_unfindable
from silofl.tasks.own_files import OwnFiles
from silofl.tasks.readers import Samples
from silofl.tasks.registry import refuse_unknown


def refuse_early(config: Config, silo: int) -> None:
    """Raise what building the task, or reading the silo's data, would where names and folders tell of it.

    Nothing is read and no code of a user's is run. Raises ConfigError, DataError or MissingDependencyError.
    """
    refuse_missing_weights(config, silo)
    if config.task.factory:
        refuse_unfindable(config.task.factory)
        return
    refuse_unknown(config.task)
    refuse_nobodys(config)
    files = own_files(config)
    if files is not None:
        files.refuse_missing(silo)


def refuse_missing_weights(config: Config, silo: int) -> None:
    """Raise ConfigError where `task.weights` names no file that can be read."""
    if not config.task.weights:
        return
    path = silo_path(config.task.weights, silo, "task.weights")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(
            f"silo {silo}: task.weights = {str(path)!r} cannot be read: {error.strerror}; name a safetensors "
            "file, or remove it",
            rank=silo,
        ) from None


def refuse_nobodys(config: Config) -> None:
    """Raise ConfigError where persons are protected, and a built-in task tells not whose a record is."""
    if config.privacy.unit != "patient" or config.data.owner_column:
        return
    if config.task.name == "files":
        raise ConfigError(
            'privacy.unit = "patient" needs to know whose a record is: set data.owner_column to the column '
            'of data.path that says so, such as "patient_id"'
        )
    raise ConfigError(
        f'privacy.unit = "patient" needs to know whose a record is, and task.name = "{config.task.name}" '
        'does not tell: set task.name = "files" and data.owner_column, or privacy.unit = "example"'
    )


def read_early(config: Config, silo: int) -> Samples | None:
    """The samples of the silo's own files; None where the task has others. Errors of `OwnFiles.read`."""
    files = own_files(config)
    return None if files is None else files.read(silo)


def own_files(config: Config) -> OwnFiles | None:
    """The silo's files, where `task.name` is that which reads them."""
    if config.task.factory or config.task.name != "files":
        return None
    return OwnFiles(config.task, config.data, config.run.seed)
