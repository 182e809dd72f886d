"""Entry point of the command. Sets the environment first, for NumPy and torch read it once."""

# ruff: noqa: E402 - the folder is taken out of the path before anything is looked for in it
from __future__ import annotations

import os
import sys


def _forget_folder() -> None:
    """Do not import from the current folder, which `python -m` puts first: a random.py there is a user's.

    It stays where silofl itself is found nowhere else.
    """
    try:
        folder = os.getcwd()
    except OSError:  # it was removed: `main` says so
        return
    if __name__ == "__main__" and not sys.flags.safe_path and sys.path[:1] == [folder]:
        home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        if home != folder:
            del sys.path[0]


_forget_folder()

import signal
import time
from typing import Any

from silofl import console, startup
from silofl.errors import EXIT_BAD_INPUT, EXIT_STORAGE, ConfigError, SiloflError
from silofl.launcher import watchdog
from silofl.launcher.detection import Launch, fault_tolerance_enabled, first_of_its_start
from silofl.launcher.environment import environment_of_ranks, prepare_environment
from silofl.launcher.hidden_modules import hidden_module

PRINT_GRACE_S = 0.5


def main() -> None:
    """Run the command line; exit code 2 for bad input, with one sentence on one rank."""
    output = console.open_streams()
    leader = first_of_its_start(os.environ)
    try:
        _refuse_no_folder()
        code = _run()
    except SiloflError as error:
        if leader:
            console.log(str(error))
        code = error.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error, whichever click typer was built on
            raise
        if leader:
            console.log(f"{error.format_message()} (silofl --help lists what there is)")
        code = EXIT_BAD_INPUT
    if code and not leader:
        time.sleep(PRINT_GRACE_S)  # a launcher may end all ranks as soon as one has ended
    startup.end()
    sys.exit(code or _unwritten(output))


def _refuse_no_folder() -> None:
    """Raise ConfigError where there is no current folder, in which paths and tasks are looked for."""
    try:
        os.getcwd()
    except OSError:
        raise ConfigError("the current folder was removed: go to one that is there") from None


def _run() -> Any:
    """Run the command; a module that a user's file hides is an error with its name."""
    try:
        if sys.argv[1:2] == ["launch"]:
            return _launch()
        launch = prepare_environment()
        if sys.argv[1:2] == ["train"]:
            _become_rank(launch)
        return _run_command()
    except (ImportError, AttributeError) as error:
        sentence = hidden_module(error)
        if not sentence:
            raise
        hidden = ConfigError(sentence)
        if sys.excepthook.__module__.startswith("silofl."):  # ranks: it ends all of them
            sys.excepthook(ConfigError, hidden, error.__traceback__)
        raise hidden from error


def _launch() -> Any:
    from silofl.launcher.mpi_info import find_launchers
    from silofl.launcher.zygote.stub import Hold

    # A queue's warning waits for the job to run: before and after it nobody handles one.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    prepare_environment()
    if {"--help", "--dry-run"} & {*sys.argv}:
        return _run_command()
    with Hold(environment_of_ranks(os.environ, find_launchers(None))):
        return _run_command()


def _become_rank(launch: Launch) -> None:
    """Go on in a fork of this node's zygote where there can be one, and under a watchdog.

    Slurm has a control group for each task that it starts itself, which no fork can change.
    """
    from silofl.launcher.zygote.stub import take_place
    from silofl.preload import set_threads

    rank = launch.rank
    if rank is not None and launch.launcher != "slurm" and _is_program():
        take_place()
    startup.begin()
    if rank is not None:
        watchdog.spawn_watchdog(rank, survivors_go_on=fault_tolerance_enabled(os.environ))
    set_threads()


def _is_program() -> bool:
    """Whether this process is the command, and not another program that calls it, or one that looks on."""
    main = sys.modules["__main__"]
    as_module = main.__spec__ is not None and main.__spec__.name == __package__ + ".__main__"
    script = os.path.join(os.path.dirname(sys.executable), __package__)
    as_script = main.__spec__ is None and os.path.abspath(getattr(main, "__file__", "")) == script
    monitoring = getattr(sys, "monitoring", None)  # of Python 3.12 and later
    watched = [sys.gettrace(), sys.getprofile(), *(monitoring.get_tool(k) for k in range(6) if monitoring)]
    return (as_module or as_script) and not any(watched)


def _run_command() -> Any:
    from silofl.cli import command

    return command(standalone_mode=False)


def _unwritten(output: console.Output) -> int:
    """The exit code for what standard output has not taken: of a run its files have all that counts."""
    sys.stdout.flush()
    if output.lost is None or sys.argv[1:2] in (["train"], ["launch"]):
        return 0
    console.log(f"standard output cannot be written: {output.lost.strerror}")
    return EXIT_STORAGE


if __name__ == "__main__":
    main()
