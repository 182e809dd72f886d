"""TensorBoard event files, written where the extra `report` is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class EventFiles:
    """Scalars of every round under `<run>/trace`."""

    def __init__(self, path: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(path / "trace"))

    def begin(self, plan: dict[str, Any]) -> None:
        """Rounds that a resume will run again are hidden from here on."""
        self._writer.purge_step = plan["first_round"]

    def notice(self, text: str) -> None:
        """Events hold numbers only."""

    def round(self, record: dict[str, Any]) -> None:
        """Loss, accuracy, bytes and seconds of the round; every silo's own metrics where they are shared."""
        number = record["round"]
        for name in ("loss", "accuracy", "bytes_sent", "seconds"):
            if name in record:
                self._writer.add_scalar(name, record[name], number)
        for name, value in record["seconds_by_phase"].items():
            self._writer.add_scalar(f"seconds/{name}", value, number)
        for silo, metrics in enumerate(record["per_silo"]):
            for name, value in metrics.items():
                self._writer.add_scalar(f"silo-{silo}/{name}", value, number)

    def finish(self, summary: dict[str, Any]) -> None:
        """Flush."""
        self.close()

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


def available() -> bool:
    """Whether event files can be written here."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True
