"""Epsilon after every round without a wait: worked out while the round trains, where it can be foreseen."""

from __future__ import annotations

from silofl.background import Background
from silofl.privacy.accountant import Method
from silofl.privacy.ledger import Ledger


class EpsilonPrefetch:
    """Tells the epsilon of ledgers at one delta."""

    def __init__(self, delta: float, method: Method) -> None:
        self._delta, self._method = delta, method
        self._ahead: Background[float] = Background()
        self._expected = Ledger()

    def foresee(self, ledger: Ledger) -> None:
        """Begin with a ledger that will be asked for if all goes as planned; does not wait."""
        if not self._ahead.busy:
            self._expected = ledger
            self._ahead.start(lambda: ledger.epsilon(self._delta, self._method))

    def epsilon(self, ledger: Ledger) -> float:
        """Of the federation; the same bits whether it was foreseen or not."""
        if self._ahead.busy:
            foreseen = self._ahead.result()
            if ledger == self._expected:
                return foreseen
        return ledger.epsilon(self._delta, self._method)
