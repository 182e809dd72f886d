"""Steps on sampled examples or persons of one silo, as far as they are made of its data and its keys."""

from __future__ import annotations

from silofl.config import PrivacyConfig
from silofl.crypto.noise_keys import NoiseKeys
from silofl.federation.silo import Silo
from silofl.training.private import PrivateSteps
from silofl.training.sampling import Groups


def sampled_steps(silo: Silo, privacy: PrivacyConfig, keys: NoiseKeys, whole_run: NoiseKeys) -> PrivateSteps:
    """Those of all records that the silo has now.

    Args:
        silo: of this rank.
        privacy: [privacy].
        keys: of the silo's samples.
        whole_run: keys that are the same all through a run, of which persons, or records, take turns.
    """
    groups = None
    if privacy.bands > 1:
        groups = Groups(whole_run.stream("groups", 0, 0), len(silo.persons), privacy.bands)
    gradients, rate, data = silo.clipped_gradients(privacy), privacy.sample_rate, silo.data_digest()
    return PrivateSteps(gradients, silo.model, silo.persons, rate, keys, data, silo.counted, groups)
