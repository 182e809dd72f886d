"""Keys of [privacy] that do nothing: privacy that is written down and not there is refused, never trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from silofl.config.sections import PrivacyConfig
from silofl.privacy.places import PLACES


def idle_keys(privacy: PrivacyConfig, *, statistics: bool) -> Mapping[str, str]:
    """Every key of [privacy] that a run makes no use of, with why and what to do instead.

    `statistics`: whether columns are scaled by `data.standardize`.
    """
    if privacy.unit == "none":
        why = (
            'and privacy.unit is "none": set privacy.unit to "example", "patient", "client" or "silo", '
            "or remove"
        )
        return {key: why for key in PrivacyConfig.model_fields if key != "unit"}
    samples, place = privacy.samples, PLACES[privacy.place]
    counts = privacy.clip_quantile is not None and not (privacy.sampled or place.alone)
    silo = 'and privacy.unit is "silo", which samples no records: remove'
    under = f'and privacy.place is "{privacy.place}"'
    client = 'and privacy.unit is "client", whose updates are clipped as a whole: remove'
    idle = {} if samples else {"sample_rate": silo, "clipping": silo}
    idle = {"clipping": client} if privacy.unit == "client" else idle
    if privacy.unit != "patient":
        other = f'and privacy.unit is "{privacy.unit}", which asks not whose a record is: set "patient", or '
        idle |= dict.fromkeys(("records_per_patient", "institutions_per_patient"), f"{other}remove")
    if privacy.neighbours != "add-remove" or not privacy.sampled:
        idle["records"] = (
            f'and privacy.neighbours is "{privacy.neighbours}", with which the true number is public: remove'
        )
    if not counts:
        idle["quantile_noise_multiplier"] = (
            "and privacy.clip_quantile, whose counts it is for, is not: set both, or remove"
        )
    if not statistics:
        idle["standardize_noise_multiplier"] = (
            "and data.standardize, whose sums it is for, is not: set both, or remove"
        )
    if not (place.needs_private_sum or counts or (statistics and not place.alone)):
        why = f"{under}, under which no silo knows a part of another's noise: remove"
        idle |= {"colluding": why, "dropouts": why}
    if not privacy.budget_dir:
        why = "and privacy.budget_dir is not, so that nothing is counted: set both, or remove"
        idle |= dict.fromkeys(("budget_dir", "budget_name", "budget_epsilon", "budget_delta"), why)
    elif privacy.budget_epsilon is None:
        idle["budget_delta"] = "and privacy.budget_epsilon, at which it counts, is not: set both, or remove"
    if place.alone:
        idle["rotate"] = f"{under}, where each silo adds its noise alone and nothing is rotated: remove"
    if privacy.mechanism == "skellam" and privacy.accountant != "rdp":
        idle["accountant"] = (
            'and privacy.mechanism is "skellam", for which there are Renyi orders alone: set it to "rdp", '
            "or remove"
        )
    return idle


def refusals(privacy: PrivacyConfig, *, statistics: bool) -> Iterator[str]:
    """A sentence on the keys that are set and do nothing; one key alone, but under `unit = "none"` all."""
    idle = idle_keys(privacy, statistics=statistics)
    given = [
        key
        for key in PrivacyConfig.model_fields
        if key in idle and key in privacy.model_fields_set and getattr(privacy, key) is not None
    ]
    if privacy.unit == "none" and len(given) > 1:
        *first, last = (f"privacy.{key}" for key in given)
        yield f"{', '.join(first)} and {last} are set {idle[given[0]]} them"
        return
    for key in given:
        yield f"privacy.{key} is set {idle[key]} it"
