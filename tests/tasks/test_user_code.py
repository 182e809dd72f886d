"""What goes wrong in a user's code: one sentence with its place, and the rest in the silo's own file."""

from __future__ import annotations

import asyncio
import stat
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import torch

from silofl.errors import DataError, UserCodeError
from silofl.tasks.metrics import auc
from silofl.tasks.user_code import UserCode, own_files
from silofl.training.batches import Batches

SECRET = "patient 4711"


def helper(table: dict[str, int]) -> int:
    return table[SECRET]


def outer(model: Any, batch: Any) -> Any:
    return helper({})


def library(model: Any, batch: Any) -> Any:
    return torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.zeros(5))


def said(what: str, function: Any, code: UserCode, *arguments: Any) -> str:
    with pytest.raises(UserCodeError) as caught, code.calling(what, function):
        function(*arguments)
    assert caught.value.exit_code == 2
    assert caught.value.rank == code.silo
    assert "\n" not in str(caught.value)
    return str(caught.value)


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip() == text)


def test_the_sentence_has_the_innermost_line_of_the_users_own_files_and_no_value(tmp_path: Path) -> None:
    text = said("loss", outer, UserCode(1, tmp_path), None, None)
    place = f"test_user_code.py:{line_of('return table[SECRET]')}, in helper"
    file = tmp_path / "traceback-silo-0001.txt"
    assert text == (
        f"silo 1: the task's loss() raised KeyError at {place}; the silo's own traceback is in {file}"
    )
    assert SECRET in file.read_text()
    assert "in outer" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    call = "return torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.zeros(5))"
    place = f"test_user_code.py:{line_of(call)}, in library"
    assert f"raised ValueError at {place};" in said("metrics", library, UserCode(1, tmp_path), None, None)


def test_without_a_folder_there_is_no_file_and_alone_the_text_is_told() -> None:
    assert said("model", outer, UserCode(0), None, None).endswith("in helper")
    assert SECRET in said("model", outer, UserCode(0, alone=True), None, None)


def test_a_folder_that_cannot_be_written_takes_nothing_from_the_sentence(tmp_path: Path) -> None:
    assert said("data", outer, UserCode(0, tmp_path / "absent"), 0, 1).endswith("in helper")


def test_a_call_that_runs_no_line_is_placed_where_the_method_begins() -> None:
    begins = line_of("def outer(model: Any, batch: Any) -> Any:")
    batches = Batches([1, 2], torch.float32, torch.device("cpu"), collate=outer)  # type: ignore[arg-type]
    with pytest.raises(UserCodeError, match=rf"TypeError .*it begins at test_user_code.py:{begins}$"):
        batches.all()


def test_memory_that_runs_out_has_a_remedy() -> None:
    def full() -> None:
        raise torch.OutOfMemoryError

    assert "lower train.batch_size" in said("loss", full, UserCode(0))
    assert "lower train.eval_batch_size" in said("evaluate", full, UserCode(0))


@pytest.mark.parametrize("made", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_of_two_types_are_told_with_what_helps(made: torch.dtype) -> None:
    def products() -> None:
        torch.nn.functional.linear(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=made))

    def entropy() -> None:
        weight = torch.ones(3, dtype=made)
        labels = torch.tensor([0, 1])
        torch.nn.functional.cross_entropy(torch.zeros(2, 3, dtype=torch.float64), labels, weight)

    for wrong in (products, entropy):
        assert "of train.dtype" in said("loss", wrong, UserCode(0))
    assert "of train.dtype" not in said("loss", library, UserCode(0), None, None)


def test_what_is_kept_of_an_earlier_batch_with_its_gradients_is_told_with_what_helps() -> None:
    hidden = torch.ones(2, requires_grad=True).exp()

    def backward() -> None:
        hidden.sum().backward()

    backward()
    assert "such as a hidden state or a cache, has its gradients: detach() it" in said(
        "loss", backward, UserCode(0)
    )


def test_code_that_ends_the_program_ends_no_rank_alone() -> None:
    def leave() -> None:
        sys.exit(f"no {SECRET}")

    assert said("loss", leave, UserCode(1)).startswith(
        "silo 1: the task's loss() raised SystemExit at test_user"
    )


def test_whatever_is_raised_is_one_sentence(tmp_path: Path) -> None:
    """Also a cancelled task of asyncio, which is no Exception, and texts that cannot be written or made."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    for error in (asyncio.CancelledError(), ValueError("\udcff"), Mute()):

        def fail(error: BaseException = error) -> None:
            raise error

        for code in (UserCode(0, tmp_path), UserCode(0, alone=True)):
            assert f"raised {type(error).__name__} at test_user_code.py" in said("loss", fail, code)
    with pytest.raises(KeyboardInterrupt), UserCode(0).calling("loss"):
        raise KeyboardInterrupt


def test_a_sentence_of_ours_passes() -> None:
    with pytest.raises(DataError, match="scores from 0 to 1"), UserCode(0).calling("metrics", auc):
        auc(torch.tensor([3.0]), torch.tensor([1]))


def test_what_a_gpu_tells_of_late_is_not_laid_to_the_line_that_heard_it() -> None:
    def loss() -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    assert "set CUDA_LAUNCH_BLOCKING=1" in said("loss", loss, UserCode(3))


class _SaysItIsAModule:
    """As cffi's `lib`: in `sys.modules`, and made whole when it is asked for anything."""

    def __getattribute__(self, name: str) -> Any:
        return ModuleType if name == "__class__" else pytest.fail(f"asked for {name}")


def test_a_tasks_files_are_found_without_asking_what_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy = ModuleType("lazy_one")
    vars(lazy)["__getattr__"] = lambda name: pytest.fail(f"loads something for {name}")
    for name, text in (("its_task", "class Task: ..."), ("its_model", "x = 1")):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "its_lib", cast(ModuleType, _SaysItIsAModule()))
    monkeypatch.setitem(sys.modules, "lazy_one", lazy)
    import_module("its_model")
    found = own_files(import_module("its_task").Task())
    assert set(found) == {"its_model.py", "its_task.py"}
