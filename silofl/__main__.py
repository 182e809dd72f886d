"""Entry point of the command. Sets the environment first, for NumPy and torch read it once."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from silofl import startup
from silofl.errors import EXIT_BAD_INPUT, SiloflError
from silofl.launcher import watchdog
from silofl.launcher.detection import fault_tolerance_enabled
from silofl.launcher.environment import prepare_environment

PRINT_GRACE_S = 0.5


def main() -> None:
    """Run the command line; exit code 2 for bad input, with one sentence on one rank."""
    launch = prepare_environment()
    if sys.argv[1:2] == ["train"]:
        startup.begin()
        if launch.rank is not None:
            watchdog.spawn_watchdog(launch.rank, survivors_go_on=fault_tolerance_enabled(os.environ))
    from silofl.cli import app

    leader = not launch.rank
    try:
        code: Any = app(standalone_mode=False)
    except SiloflError as error:
        if leader:
            print(f"silofl: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error, whichever click typer was built on
            raise
        if leader:
            print(f"silofl: {error.format_message()} (silofl --help lists what there is)", file=sys.stderr)
        code = EXIT_BAD_INPUT
    if code and not leader:
        time.sleep(PRINT_GRACE_S)  # a launcher may end all ranks as soon as one has ended
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
