"""Numbers as a page writes them."""

from __future__ import annotations

import math


def plain_number(value: float) -> str:
    """`0.975`, `12`, `1.2e+09`: as an axis has it."""
    if not math.isfinite(value):
        return "no number"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:.4f}" if abs(value) < 1 else f"{value:.5g}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"


def bytes_text(count: float) -> str:
    """`55.4 kB`, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}" if unit != "TB" or count < 1000 else f"{count:.4g} {unit}"


def seconds_text(seconds: float) -> str:
    """`0.24 s`."""
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def silos_told(silos: int) -> str:
    """`1 silo`, `4 silos`."""
    return "1 silo" if silos == 1 else f"{silos} silos"
