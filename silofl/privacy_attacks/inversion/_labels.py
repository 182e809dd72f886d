"""Labels, which a gradient shows almost by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from silofl.privacy_attacks.inversion.base import Gradient, Public


def labels_of(gradient: Gradient, public: Public) -> NDArray[np.int64]:
    """The labels (m,) of a gradient's examples, by the bias of the last layer, ascending.

    Its gradient is the mean of p - onehot(y): of one example it is below zero at its label alone (iDLG; Zhao
    et al. 2020, section 2.2). Of m examples the lowest is taken, raised by 1 / m, and so on (Wainakh et al.
    2022, section 4). Raises ValueError where the model does not end with a linear layer that has a bias.
    """
    last = [name for name, one in public.module.named_modules() if isinstance(one, nn.Linear)]
    bias = gradient.get(f"{last[-1]}.bias") if last else None
    if bias is None or len(bias) != public.classes:
        raise ValueError("the model does not end with a linear layer with a bias, which would show labels")
    left, found = bias.numpy().astype(np.float64), list[int]()
    for _ in range(public.examples):
        found.append(int(left.argmin()))
        left[found[-1]] += 1 / public.examples
    return np.sort(np.array(found, np.int64))
