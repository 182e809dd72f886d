"""What tests of a federation in one process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def threads_kept() -> Iterator[None]:
    """Put torch's number of threads back, which the ranks of a silo divide."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
