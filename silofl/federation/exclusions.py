"""[detection] in a run: what is known of every silo, the same on all ranks and in every checkpoint."""

from __future__ import annotations

import json
from typing import Any, Self, final

from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.detection.silo_standing import ExclusionRules, Standing, Verdict
from silofl.federation.agreed_state import agreed_state
from silofl.federation.exclusion_limits import rules_of
from silofl.federation.stateful import Json, Part, State
from silofl.topologies.detecting_steps import Watch

WHAT = "which silos [detection] has excluded"


@final
class Exclusions(Part):
    """One rank's; all ranks have the same.

    Attributes:
        watch: what the server's half of the strategy works with.
    """

    name = "detection"

    def __init__(self, group: ElasticGroup, rules: ExclusionRules) -> None:
        self._group, self.watch = group, Watch(rules)

    @classmethod
    def of(cls, group: ElasticGroup, config: Config, silos: int) -> Self | None:
        """Those of a run of `silos`; None where no update is scored."""
        return cls(group, rules_of(config, silos)) if config.detection.active else None

    def accept(self) -> Verdict | None:
        """Take up what the round's step has decided, which is complete now; None where nothing was."""
        verdict, self.watch.verdict = self.watch.verdict, None
        if verdict is not None:
            self.watch.standings = self.watch.after
        return verdict

    def state(self) -> State:
        """See `Stateful`."""
        return {"standings": json.dumps(self.rejoin_state()["standings"])}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`. CheckpointError, on every rank, where silos have not the same, or none has any."""
        own = json.loads(state["standings"]) if state is not None and member else None
        self.watch.standings = agreed_state(self._group, own, _standings, WHAT)

    def rejoin_state(self) -> Json:
        """See `Stateful`."""
        return {"standings": {str(silo): one.to_json() for silo, one in self.watch.standings.items()}}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`."""
        self.watch.standings = _standings(told["standings"])


def _standings(told: Any) -> dict[int, Standing]:
    return {int(silo): Standing.from_json(one) for silo, one in told.items()}
