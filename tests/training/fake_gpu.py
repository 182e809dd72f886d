"""A GPU that is not there: tensors that lie in the CPU's memory, and that only a copy brings to the host.

Inside `FakeGpu` a tensor that was made for a device "cuda:0" says that it is there. What a real one refuses
is refused: NumPy's view of it, and an operation that meets a tensor of the host. What makes the host wait is
counted. It has to be entered by each thread. What autograd makes inside is of no known place and meets all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.backends import cudnn
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode

GPU, HOST = torch.device("cuda", 0), torch.device("cpu")
CPU_ONLY = {"numpy", "__array__", "__dlpack__"}
WAITS = {"item", "tolist", "__float__", "__int__", "__bool__", "__index__", "equal", "nonzero", "cpu"}
MEETS = {"copy_", "__getitem__", "__setitem__"}
"""What takes tensors of both places."""


class FakeGpu(TorchFunctionMode):
    """See above.

    Attributes:
        waits: how often the host has waited for the GPU, by the name of what it called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = _places([args, kwargs])
        on_gpu, name = GPU in found, _name(func)
        if func == torch.Tensor.device.__get__ and on_gpu:
            return GPU
        if func == torch.Tensor.is_cuda.__get__:
            return on_gpu
        if on_gpu and name in CPU_ONLY:
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy by {name}. Use Tensor.cpu()")
        asked: list[torch.device] = []
        plain = [_on_host(args, asked, name), _on_host(kwargs, asked, name)]
        place = HOST if name == "cpu" else asked[0] if asked else None
        if (on_gpu and name in WAITS) or (name == "to" and place not in (None, *found)):
            self.waits[name] = self.waits.get(name, 0) + 1
        if name == "data.__set__":
            _put(args[0], getattr(args[1], "_place", None))
        elif len(found) > 1 and place is None and name not in MEETS:
            raise RuntimeError(f"Expected all tensors to be on the same device ({name})")
        result = func(*plain[0], **plain[1])
        if place is not None and isinstance(result, Tensor) and name in {"cpu", "to"}:
            before = getattr(args[0], "_place", HOST)
            result = result.clone() if result is args[0] and before != place else result
        if place is None and (found or not _has_tensor([args, kwargs])):
            place = GPU if on_gpu else HOST
        if name != "data.__set__":
            _put(result, place)
        return result


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    return f"{func.__self__.__name__}.{name}" if name in {"__get__", "__set__"} else name


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        yield from _tensors(list(node.values()))
    elif isinstance(node, (list, tuple)):
        for one in node:
            yield from _tensors(one)


def _has_tensor(node: Any) -> bool:
    return next(_tensors(node), None) is not None


def _places(node: Any) -> set[torch.device]:
    """Where the tensors are; a number that lies in a tensor of the host meets all."""
    with torch._C.DisableTorchFunction():
        found = [(one.__dict__.get("_place"), one.dim()) for one in _tensors(node)]
    return {place for place, dim in found if place is not None and (place == GPU or dim)}


def _put(node: Any, place: torch.device | None) -> None:
    for one in _tensors(node):
        if place is not None:
            one.__dict__["_place"] = place


def _on_host(node: Any, asked: list[torch.device], name: str) -> Any:
    """Arguments with the host in the place of a GPU; devices that were asked for."""
    if isinstance(node, torch.device):
        asked.append(GPU if node.type == "cuda" else node)
        return HOST if node.type == "cuda" else node
    if isinstance(node, dict):
        return {key: _on_host(value, asked, name) for key, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)(_on_host(one, asked, name) for one in node)
    return node


@contextmanager
def gpus(monkeypatch: pytest.MonkeyPatch, count: int = 1) -> Iterator[None]:
    """So many GPUs, as far as torch.cuda tells of them; settings of torch are put back."""

    def nothing(*args: Any, **kwargs: Any) -> Any:
        return torch.zeros(0, dtype=torch.uint8)

    def grouped(lists: Any, *args: Any) -> Any:
        """What torch's own C++ sees in the CPU's memory."""
        return {(GPU, dtype): found for (_, dtype), found in group(lists, *args).items()}

    group = clip_grad._group_tensors_by_device_and_dtype
    with monkeypatch.context() as patch:
        patch.setattr(clip_grad, "_group_tensors_by_device_and_dtype", grouped)
        patch.setattr(torch.cuda, "device_count", lambda: count)
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "Fake")
        for name in ("set_device", "get_rng_state", "set_rng_state"):
            patch.setattr(torch.cuda, name, nothing)
        for owner, name in ((torch.utils.deterministic, "fill_uninitialized_memory"), (cudnn, "allow_tf32")):
            patch.setattr(owner, name, True)
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
