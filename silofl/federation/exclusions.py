"""[detection] in a run: what is known of every silo, the same on all ranks and in every checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Self, final

from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.detection.silo_standing import ExclusionRules, Standing, Verdict, no_better
from silofl.federation.agreed_state import agreed_state
from silofl.federation.exclusion_limits import rules_of
from silofl.federation.stateful import Json, Part, State
from silofl.topologies.detecting_steps import Watch

WHAT = "which silos [detection] has excluded"
AS_SIGNED = "it was, as all silos have signed, before the run went back behind this round"


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

    def accept(self, signed: Json | None = None) -> Verdict | None:
        """Take up what the round's step has decided, which is complete now; None where nothing was.

        `signed`: the standings after this round that all silos signed before a resume went back behind it.
        None becomes better than it was by that: where the round comes out as it did they are the same.
        """
        verdict, self.watch.verdict = self.watch.verdict, None
        if verdict is None:
            return None
        before, after = self.watch.standings, self.watch.after
        if signed is not None:
            after, still = no_better(after, _standings(signed))
            more = {silo: AS_SIGNED for silo in still if silo not in before or not before[silo].excluded}
            reinstated = {silo: why for silo, why in verdict.reinstated.items() if silo not in still}
            verdict = replace(verdict, excluded={**verdict.excluded, **more}, reinstated=reinstated)
        self.watch.standings = after
        return verdict

    @property
    def standings(self) -> Json:
        """Of silos as they are, by number, as JSON."""
        return {str(silo): one.to_json() for silo, one in sorted(self.watch.standings.items())}

    def state(self) -> State:
        """See `Stateful`."""
        return {"standings": json.dumps(self.standings)}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`. CheckpointError, on every rank, where silos have not the same, or none has any."""
        own = json.loads(state["standings"]) if state is not None and member else None
        self.watch.standings = agreed_state(self._group, own, _standings, WHAT)

    def rejoin_state(self) -> Json:
        """See `Stateful`."""
        return {"standings": self.standings}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`."""
        self.watch.standings = _standings(told["standings"])


def _standings(told: Any) -> dict[int, Standing]:
    return {int(silo): Standing.from_json(one) for silo, one in told.items()}
