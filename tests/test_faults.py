"""The lines of [failure] inject: what they mean, and one sentence for what they cannot mean."""

from __future__ import annotations

import pytest

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.faults import ACTIONS, OPEN_ENDED, SENDING, STEPS, Fault, parse


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_at_every_step_where_it_can_be(action: str, step: str) -> None:
    text = f"{action} silo 2 round 5 at {step}" + (" x2.5" if action == "slow" else "")
    possible = {"corrupt": step in SENDING, "slow": step not in OPEN_ENDED}.get(action, True)
    if possible:
        assert parse(text) == Fault(action, 2, 5, step, 2.5 if action == "slow" else 1.0)
    else:
        with pytest.raises(ValueError, match=f"inject has '{text}': `{action}` is for the steps "):
            parse(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill silo 0 round 1 at collect", Fault("kill", 0, 1, "collect first")),
        ("  stop  silo 12   round 300 at\tcheckpoint   agree ", Fault("stop", 12, 300, "checkpoint agree")),
        ("slow silo 1 round 2 at train x10", Fault("slow", 1, 2, "train", 10.0)),
        ("slow silo 1 round 2 at collect x1.5", Fault("slow", 1, 2, "collect first", 1.5)),
    ],
)
def test_lines_are_read(text: str, fault: Fault) -> None:
    assert parse(text) == fault


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'write it like "kill silo 2 round 5 at collect"'),
        ("kill silo 2", "write it like"),
        ("kill silo two round 5 at train", "write it like"),
        ("kill silo -1 round 5 at train", "write it like"),
        ("kill silo 2 round 5.5 at train", "write it like"),
        ("kill silo 2 round 5 at train now and then", "write it like"),
        ("kill silo 2 round 5 at TRAIN", "write it like"),
        ("slow silo 2 round 5 at train x", "unknown step 'train x', did you mean 'train'?"),
        ("slow silo 2 round 5 at train x-3", "write it like"),
        ("kil silo 2 round 5 at train", "unknown action 'kil', did you mean 'kill'?"),
        ("Stop silo 2 round 5 at train", "unknown action 'Stop', did you mean 'stop'?"),
        ("crash silo 2 round 5 at train", "unknown action 'crash', did you mean "),
        ("kill silo 2 round 5 at trian", "unknown step 'trian', did you mean 'train'?"),
        ("kill silo 2 round 5 at colect", "unknown step 'colect', did you mean 'collect'?"),
        ("kill silo 2 round 5 at checkpoint", "unknown step 'checkpoint', did you mean 'checkpoint "),
        ("kill silo 2 round 5 at evaluation", "unknown step 'evaluation', did you mean 'evaluate'?"),
        ("kill silo 2 round 0 at train", "rounds are counted from 1"),
        ("slow silo 2 round 5 at train x0", "a step cannot be made faster; give x1 or more"),
        ("slow silo 2 round 5 at train x0.9", "a step cannot be made faster; give x1 or more"),
        ("slow silo 2 round 5 at train", "`slow`, and nothing else, ends with a factor such as x5"),
        ("kill silo 2 round 5 at train x5", "`slow`, and nothing else, ends with a factor such as x5"),
        ("corrupt silo 2 round 5 at collect", "`corrupt` is for the steps advertise, share, agree, reveal"),
        (
            "slow silo 2 round 5 at mask x2",
            "`slow` is for the steps train, advertise, share, collect first, ",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"failure\.inject has") as caught:
        parse(text)
    assert repr(text) in str(caught.value)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError) as refused:
        configuration.parse({"failure": {"inject": ["kill silo 0 round 1 at train", text]}})
    assert str(refused.value) == str(caught.value)


def test_a_configuration_has_its_faults() -> None:
    config = configuration.parse({"failure": {"inject": ["kill silo 0 round 1 at train"]}})
    assert config.failure.faults == [Fault("kill", 0, 1, "train")]
