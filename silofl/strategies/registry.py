"""Strategies by their configured name."""

from __future__ import annotations

from silofl.config import StrategyConfig
from silofl.strategies.base import Strategy
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.fedsgd import FedSGD

STRATEGIES: dict[str, type[FedAvg] | type[FedSGD]] = {"fedavg": FedAvg, "fedsgd": FedSGD}


def build(config: StrategyConfig) -> Strategy:
    """The strategy that [strategy] names."""
    return STRATEGIES[config.name](lr=config.lr, momentum=config.momentum)
