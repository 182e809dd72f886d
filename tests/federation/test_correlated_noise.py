"""Correlated noise under the secure sum: exact, remade bit for bit, and counted, whoever dies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant

from silofl.crypto.noise_keys import NONCE_BYTES
from silofl.errors import ConfigError, MismatchError, StoppedError
from silofl.federation.privacy.guarantee import plan_for
from silofl.federation.run_statement import statement_of_run
from silofl.privacy.bands import matrix_for
from silofl.privacy.plan import Plan
from silofl.privacy.spent_statement import Statement
from silofl.transforms.base import Slice, Values
from silofl.transforms.correlated import CorrelatedNoise, Drawn, NoiseProcess
from silofl_kernels import correlate_noise, draw_noise
from tests.campaigns import mostly_long
from tests.federation import rejoining
from tests.federation.test_privacy import FEATURES, SILOS, Plain, federate, lines, settings
from tests.federation.threads import prepare

PRIVACY = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2, "bands": 3, "metrics": "exact"}


@pytest.fixture
def one_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs have the same noise then."""
    monkeypatch.setattr("silofl.federation.privacy.engine.new_nonce", lambda: bytes(NONCE_BYTES))
    monkeypatch.setattr("silofl.federation.run_trust.new_run_id", lambda comm: "0" * 32)


class Seen:
    """What every silo put into each sum, and what each sum was, while a run goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words: dict[tuple[int, int], dict[int, Values]] = {}
        """Of a round and a silo, without noise: by position."""
        self.totals: dict[int, dict[int, Values]] = {}
        self.opened: dict[tuple[int, int], tuple[Drawn, bool]] = {}
        self.keys: dict[tuple[int, int], Any] = {}
        self.tables: dict[tuple[int, int], Any] = {}
        encode, decode, start = CorrelatedNoise.encode, CorrelatedNoise.decode, NoiseProcess.open

        def encoded(self_: CorrelatedNoise, values: Values, place: Slice, out: Values) -> Values:
            silo = self_.keys._silo  # type: ignore[attr-defined]
            kept = self.words.setdefault((place.round_number, silo), {})
            kept[place.position] = values.copy()
            at = place.round_number, silo
            self.keys[at], self.tables[at] = self_.keys, self_.table
            self.opened[place.round_number, silo] = self_.process.opened  # type: ignore[attr-defined]
            return encode(self_, values, place, out)

        def decoded(self_: CorrelatedNoise, total: Values, place: Slice) -> Values:
            self.totals.setdefault(place.round_number, {})[place.position] = total.copy()
            return decode(self_, total, place)

        def opened(self_: NoiseProcess, drawn: Drawn, silos: tuple[int, ...], *, goes_on: bool) -> None:
            self_.opened = (drawn, goes_on)  # type: ignore[attr-defined]
            start(self_, drawn, silos, goes_on=goes_on)

        monkeypatch.setattr(CorrelatedNoise, "encode", encoded)
        monkeypatch.setattr(CorrelatedNoise, "decode", decoded)
        monkeypatch.setattr(NoiseProcess, "open", opened)


def whole(parts: dict[int, Values]) -> np.ndarray:
    return np.concatenate([parts[position] for position in sorted(parts)])


def remade(seen: Seen, silo: int, number: int, coefficients: list[int]) -> np.ndarray:
    """A silo's noise of a round, from its keys and what its rounds were bound to: round by round."""
    history: list[np.ndarray] = []
    for at in range(1, number + 1):
        if (at, silo) not in seen.opened:
            continue
        drawn, goes_on = seen.opened[at, silo]
        history = history if goes_on else []
        out = np.zeros(whole(seen.words[at, silo]).size, np.int32)
        draw_noise(out, seen.tables[at, silo], seen.keys[at, silo].stream("noise", *drawn))
        past = np.array(history[::-1][: len(coefficients)] or [np.zeros_like(out)])
        factors = np.array(coefficients[: len(past)])
        correlate_noise(out, past, factors, seen.keys[at, silo].stream("noise around centres", *drawn))
        history.append(out)
    return history[-1]


def coefficients_of(config: Any) -> list[int]:
    return list(matrix_for(config.privacy.bands, config.run.rounds).coefficients[1:])


def check_sums(seen: Seen, config: Any, path: Path) -> None:
    """Without the noise that keys remake the sums are those of all silos' integers, to the last one."""
    for number, line in enumerate(lines(path), 1):
        total = whole(seen.totals[number])
        for silo in line["survivors"]:
            noise = remade(seen, silo, number, coefficients_of(config))
            total = total - noise.astype(total.dtype) - whole(seen.words[number, silo])
        assert not total.any(), f"round {number}"


@pytest.mark.long
@pytest.mark.parametrize("bits", mostly_long([32, 16], 1))
def test_sums_are_the_integers_and_noise_that_keys_remake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    """A silo dies in round 4 of 9, and all processes with it: the next round begins others."""
    prepare(monkeypatch)
    seen = Seen(monkeypatch)
    fault = {"policy": "shrink", "inject": ["kill silo 3 round 4 at collect"]}
    privacy = PRIVACY | {"bands": 4}
    config = settings(tmp_path, privacy=privacy, failure=fault, run={"rounds": 9}, secure={"bits": bits})
    results = federate(config)
    assert len({result["model_sha256"] for result in results if result is not None}) == 1
    goes_on = [seen.opened[number, 0][1] for number in range(1, 10)]
    assert goes_on == [False, True, True, True, False, True, True, True, True]
    check_sums(seen, config, tmp_path)
    plan, left = plan_of(config), plan_of(config, SILOS - 1)
    less, enough = (one.of_sum(one.grid(1.0), SILOS - 1).noise_multiplier for one in (plan, left))
    assert less < 0.9 * enough, "round 1 has less noise in the end, for its process lost a share in round 4"
    assert results[0]["epsilon"] == pytest.approx(by_dp_accounting(0.8, {less: 1, enough: 2}), rel=0.01)
    assert results[0]["epsilon_per_silo"][3] == pytest.approx(by_dp_accounting(0.8, {less: 1}), rel=0.01)


@pytest.mark.long
def test_a_silo_that_is_back_brings_noise_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails in round 4 and is back after round 6."""
    prepare(monkeypatch)
    seen = Seen(monkeypatch)
    fault = {"policy": "respawn", "inject": ["kill silo 2 round 4 at collect"]}
    config = settings(tmp_path, privacy=PRIVACY, failure=fault, run={"rounds": 10})
    results = rejoining.federate(monkeypatch, config, Plain, SILOS, 2, after=6)
    assert len({result["model_sha256"] for result in results}) == 1
    survivors = [line["survivors"] for line in lines(tmp_path)]
    assert [2 in there for there in survivors] == [True] * 3 + [False] * 3 + [True] * 4
    assert [seen.opened[number, 0][1] for number in (4, 5, 6, 7, 8)] == [True, False, True, False, True]
    check_sums(seen, config, tmp_path)
    assert [seen.opened[number, 2][0] for number in (7, 8)] != [
        seen.opened[number, 0][0] for number in (7, 8)
    ]


def test_a_silo_without_a_record_of_its_data_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other data would be cut into other groups than those that are counted."""
    prepare(monkeypatch)
    fault = {"policy": "respawn", "inject": ["kill silo 2 round 3 at collect"]}
    config = settings(tmp_path, privacy=PRIVACY, failure=fault, checkpoint={"every": 0}, run={"rounds": 6})
    refusals: list[Exception] = []
    results = rejoining.federate(monkeypatch, config, Plain, SILOS, 2, after=4, refusals=refusals)
    assert "silo 2 took part in this run and has no checkpoint of its own" in str(refusals[0])
    assert results[2] is None
    assert {results[silo]["rounds"] for silo in range(SILOS) if silo != 2} == {6}


@pytest.mark.long
@pytest.mark.parametrize("kept", mostly_long([True, False], 0))
def test_a_lost_silo_is_in_a_resume_again_where_it_has_its_files_and_else_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    prepare(monkeypatch)

    def run(rounds: int, resume: bool, *inject: str) -> list[Any]:
        return federate(
            settings(
                tmp_path,
                privacy=PRIVACY,
                run={"rounds": rounds, "dir": str(tmp_path / "run-{silo}")},
                failure={"policy": "shrink", "inject": list(inject)},
            ),
            resume=resume,
        )

    run(5, False, "kill silo 2 round 3 at collect")
    if not kept:
        shutil.rmtree(tmp_path / "run-2" / "checkpoints")
    ends = run(8, True)
    left = ends if kept else [ends[0], ends[1], ends[3]]
    assert {end["rounds"] for end in left} == {8}
    assert all(end["survivors"] == [silo for silo in range(SILOS) if kept or silo != 2] for end in left)
    assert kept or str(ends[2]) == "silo 2 has lost the files of this run: the others go on"


@pytest.mark.long
@pytest.mark.usefixtures("one_nonce")
@pytest.mark.parametrize("step", mostly_long(["reveal", "checkpoint write"], 1))
def test_a_resumed_run_remakes_its_past_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The models of a run that was killed in round 6 are those of one that was not, bit for bit."""
    prepare(monkeypatch)
    faults = {"policy": "abort", "inject": [f"kill silo {silo} round 6 at {step}" for silo in range(SILOS)]}

    def at(name: str, **more: dict[str, Any]) -> Any:
        own = {"checkpoint": {"key_file": str(tmp_path / "keys" / "silo-{silo}.key")}}
        return settings(
            tmp_path / name, **own, privacy=PRIVACY, run=run | {"dir": f"{tmp_path}/{name}/run"}, **more
        )

    run = {"rounds": 9}
    straight = federate(at("whole"))[0]
    killed = federate(at("killed", failure=faults))
    assert all(result is None or isinstance(result, StoppedError) for result in killed)
    seen = Seen(monkeypatch)
    resumed = federate(at("killed"), resume=True)
    assert min(number for number, _ in seen.opened) > 1, "it was not resumed"
    assert all(goes_on for _, goes_on in seen.opened.values())
    assert {result["model_sha256"] for result in resumed} == {straight["model_sha256"]}
    assert {result["epsilon"] for result in resumed} == {straight["epsilon"]}


@pytest.mark.long
def test_a_round_that_is_taken_again_with_other_numbers_begins_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was shown of it counts, too, and its noise is of no sum that comes later."""
    prepare(monkeypatch)
    inject = [f"kill silo {silo} round 5 at step" for silo in range(SILOS)]
    once = settings(
        tmp_path, privacy=PRIVACY, failure={"policy": "abort", "inject": inject}, run={"rounds": 8}
    )
    federate(once)
    for log in (tmp_path / "run").glob("silo-*/privacy.jsonl"):
        head, *entries = [json.loads(line) for line in log.read_text().splitlines()]
        entries[-1]["tag"] = "0" * 64
        log.write_text("".join(json.dumps(entry) + "\n" for entry in [head, *entries]))
    seen = Seen(monkeypatch)
    config = settings(tmp_path, privacy=PRIVACY, run={"rounds": 8})
    resumed = federate(config, resume=True)[0]
    again = min(number for number, silo in seen.opened if seen.opened[number, silo][0].attempt == 1)
    assert again == 5
    assert [seen.opened[number, 0][1] for number in (5, 6, 7, 8)] == [False, True, True, True]
    plan = plan_of(config)
    noise = plan.of_sum(plan.grid(1.0), SILOS).noise_multiplier
    # rounds 2, 5, 5 again and 8 are of the same group of records
    assert resumed["epsilon"] == pytest.approx(by_dp_accounting(0.6, {noise: 4}), rel=0.01)


@pytest.mark.long
def test_another_number_of_bands_does_not_go_on(tmp_path: Path) -> None:
    federate(settings(tmp_path, privacy=PRIVACY, run={"rounds": 4}))
    other = settings(tmp_path, privacy=PRIVACY | {"bands": 4}, run={"rounds": 5})
    errors = federate(other, resume=True)
    assert all(isinstance(error, ConfigError | MismatchError) for error in errors)
    assert "bands" in str(errors[0])


def plan_of(config: Any, here: int = SILOS) -> Plan:
    return plan_for(config, (FEATURES + 1) * 3, 200.0 * here, here, SILOS)


def by_dp_accounting(rate: float, times: dict[float, int]) -> float:
    """Of Gaussians sampled at a rate, each noise multiplier so many times, at delta 1e-5."""
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=1e-3)
    for noise, count in times.items():
        event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
        accountant.compose(dp_event.SelfComposedDpEvent(event, count))
    return float(accountant.get_epsilon(1e-5))


@pytest.mark.long
def test_the_statement_is_of_the_records_with_most_rounds(tmp_path: Path) -> None:
    """Ten rounds in turns of three groups are four of a record, at most."""
    privacy = PRIVACY | {"sample_rate": 0.1}
    done = federate(settings(tmp_path, privacy=privacy, run={"rounds": 10}))[0]
    statement = statement_of_run(tmp_path / "run")
    assert isinstance(statement, Statement)
    assert statement.adversaries[-1].epsilon == done["epsilon"]
    assert [list(spent.values()) for _, spent, _ in statement.adversaries[-1].groups if spent] == [[4]]
