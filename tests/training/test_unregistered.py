"""Parameters that a model holds in plain lists and dicts are found, and no others."""

import torch
from torch import nn

from silofl import config as configuration
from silofl.federation.silo import Silo
from silofl.training.unregistered import unregistered_parameters
from tests.training.test_trial import Plain


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.known = nn.Linear(8, 2)
        self.also = [self.known]
        self.rows = nn.LSTM(2, 2)  # which lists its weights itself
        self.kept = nn.ParameterList([torch.zeros(1)])
        self.fixed = [nn.Linear(2, 2).requires_grad_(False)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.known(x)


def test_what_is_not_registered_is_found() -> None:
    model = nn.Sequential(Lists())
    assert unregistered_parameters(model) == []
    model[0].heads = {"a": nn.Linear(2, 2)}
    model.scales = (nn.Parameter(torch.ones(1)),)
    assert unregistered_parameters(model) == ["scales", "0.heads"]


def test_a_notice_says_so() -> None:
    class Task(Plain):
        samples = 32

        def model(self) -> nn.Module:
            model = Lists()
            model.heads = [nn.Linear(2, 2)]
            return model

    (notice,) = Silo(configuration.parse({}), Task(), 0, 3, "cpu").notices()
    assert notice.startswith(
        "heads of the model is a plain list or dict, whose parameters are neither trained"
    )
