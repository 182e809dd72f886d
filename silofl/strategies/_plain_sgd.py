"""Where the change of a model is the sum of its steps' gradients, times the learning rate."""

from __future__ import annotations

from typing import Any


def unlike_plain_sgd(train: Any) -> tuple[str, Any, str] | None:
    """The key of [train], its value and the remedy, by which steps are not plain SGD's; None where they are.

    Clipped gradients, and those of a weight decay, are gradients: they go with it.
    """
    options = train.options
    rules = [
        (train.optimizer != "SGD", "optimizer", train.optimizer, "'SGD'"),
        (train.momentum, "momentum", train.momentum, "0"),
        (options.get("momentum"), "options.momentum", options.get("momentum"), "0"),
        (options.get("maximize"), "options.maximize", options.get("maximize"), "false"),
        (train.precision == "float16", "precision", train.precision, "'full' or 'bfloat16'"),
        (train.dtype == "bfloat16", "dtype", train.dtype, "'float32'"),
    ]
    return next(((key, value, remedy) for wrong, key, value, remedy in rules if wrong), None)
