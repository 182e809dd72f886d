"""The kernels expand the keys as the standards' ciphers do, so that slices unmask at their offsets."""

import numpy as np
import pytest

from silofl.crypto.masks import PRG_KEY_BYTES
from silofl_kernels.masking import MaskSet, add_masks
from tests.crypto.harness import Network, make_round, plain_sum, random_vectors
from tests.crypto.naive import mask_words

LENGTH = 1003


@pytest.mark.parametrize("prg", list(PRG_KEY_BYTES))
def test_slices_are_unmasked_by_the_kernels(prg, monkeypatch):
    """Every silo masks by the reference; every owner of a slice takes the masks off by the kernel."""
    vectors = random_vectors(5, LENGTH, 16)
    network = Network(make_round(5, prg=prg), vectors, {4: "mask"})
    kept = {}

    def keep(masks, bits, length):
        kept[len(kept)] = masks
        return mask_words(masks, bits, length)

    network.run("unmask")
    monkeypatch.setattr("tests.crypto.harness.mask_words", keep)
    network.unmask(0, np.zeros(LENGTH, np.uint16))
    total = sum((network.masked[k] for k in network.survivors), np.zeros(LENGTH, np.uint16))
    masks = MaskSet(prg, kept[0].expose(), kept[0].signs)
    for start, stop in ((0, 251), (251, 502), (502, 753), (753, LENGTH)):
        piece = total[start:stop].copy()
        add_masks(piece, masks, offset=start)
        np.testing.assert_array_equal(piece, plain_sum(vectors, range(4))[start:stop])
