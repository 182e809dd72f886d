"""Each step is taken once: for another request it is refused, and no stage can be copied."""

import copy
import pickle

import pytest

from silofl.crypto.secagg import mask, share
from silofl.errors import ProtocolError
from tests.crypto.insiders import network_at


def test_steps_with_other_requests_are_refused():
    network = network_at("never")
    adverts, packets = network.sent["advertise"], network.sent["share"]
    fresh = network_at("share").stages[0]
    first = share(fresh, adverts)
    assert share(fresh, adverts) is first
    with pytest.raises(ProtocolError, match="already taken the step share"):
        share(fresh, {k: adverts[k] for k in (0, 1, 2)})
    stage = network_at("mask").stages[0]
    inbox = {k: packets[k][0] for k in (1, 2, 3, 4)}
    assert mask(stage, inbox, range(5), 3) is mask(stage, inbox, range(5), 3)
    for shared, length in ((range(4), 3), (range(5), 4)):
        with pytest.raises(ProtocolError, match="already taken the step mask"):
            mask(stage, inbox, shared, length)


@pytest.mark.parametrize("stop", ["share", "mask", "agree", "reveal", "unmask"])
def test_stages_are_not_copied(stop):
    stage = network_at(stop).stages[0]
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="never pickled or copied"):
            duplicate(stage)
