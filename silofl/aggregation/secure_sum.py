"""The secure sum by itself, for any program that has an mpi4py communicator and an array."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np

from silofl.aggregation.failure_marks import FailureMarks, of_transport
from silofl.aggregation.magnitudes import measure
from silofl.aggregation.secagg import SecAggSum
from silofl.aggregation.secagg_round import AdvertisedRound
from silofl.aggregation.secure_session import configured_session
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.collective_errors import Result, allgather_object, capture, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.ranks import communicator_of
from silofl.config import SecureConfig
from silofl.crypto.kdf import digest
from silofl.crypto.signer import has_keys, mixed_keys
from silofl.errors import ConfigError, DataError, OtherTermsError, SiloflError
from silofl.types import Contribution, Vector

Array = TypeVar("Array")
NAME = "array"
LOCAL = {"identity", "roster", "passphrase_file", "protocol", "committee", "recompute"}
"""Keys of [secure] that need not be equal on ranks, or mean nothing here."""


class SecureAggregator:
    """Sums over the ranks of a communicator of which no rank sees a summand; collective to make.

    Every sum is a round of the protocol `secagg` with fresh keys (Bonawitz et al. 2017): masks from pairs and
    from each silo, exact sums in a ring of `bits` bits, slices added by their owners. Values are rounded to
    fixed point: the error of a sum over n silos is at most n/2 steps of range * n / 2^(bits - 1).

    Args:
        comm: an mpi4py communicator, or silofl's own.
        size: values of every vector; taken from the first array when None.
        bits: 8, 16 or 32 bits a value on the wire.
        value_range: largest magnitude of a value, beyond which it is clipped; agreed in every sum when None.
        config: all other keys of [secure]: threshold, generator, rounding, two silos allowed, and this
            institution's identity with the roster of all. Without them every rank makes a key for this
            aggregator alone, which protects from curious ranks and from readers of the wire, and not from a
            party that can change what is on it.

    Raises:
        ConfigError: fewer than three ranks (two by `allow_two`), a ring too small for so many silos, a key
            that does nothing here, or another one on another rank. On every rank.
    """

    def __init__(
        self,
        comm: Any,
        size: int | None = None,
        *,
        bits: int = 16,
        value_range: float | None = None,
        config: SecureConfig | None = None,
    ) -> None:
        self._marks = FailureMarks(communicator_of(comm))
        self._comm = self._marks.communicator
        self._sum: SecAggSum | None = None
        self._round, self._summing, self._making, self._gathering = 0, False, False, False
        opened = capture(lambda: self._open(config or SecureConfig(), size, bits, value_range))
        if opened.failed:
            self._end(opened)

    def _open(self, given: SecureConfig, size: int | None, bits: int, value_range: float | None) -> None:
        with raise_on_all_ranks(self._comm):
            _refuse_unused(given)
            settings = given.model_copy(update={"bits": bits, "range": value_range})
        shared = settings.model_dump(mode="json", exclude=LOCAL)
        _refuse_mixed_keys(self._comm, settings)
        _refuse_differences(self._comm, shared | {"size": size})
        group = ElasticGroup(self._comm, fault_tolerant=False)
        agreed = digest("settings of a secure sum", json.dumps(shared, sort_keys=True).encode())
        self._session = configured_session(group, settings, agreed, self._comm.size)
        self._settings = settings
        if size is not None:
            self._sum = self._make(size, np.dtype(np.float32))

    def sum(self, x: Array, *, out: Array | None = None) -> Array:
        """The sum over ranks of `x`, of its type and shape; collective.

        What one rank raises while it adds up, all ranks raise, with its number, and the next sum may follow.

        Args:
            x: float32 or float64 NumPy array or torch tensor, of one shape on every rank. Not changed.
            out: where the sum is written and returned, as in NumPy: of the kind, type and shape of `x`, in C
                order, a tensor on the CPU; may be `x`. Each rank decides for itself. Where it is kept, its
                pages are there already, which a new array gets one by one. After an error it holds anything.

        Raises:
            DataError: a rank's values are not finite; ranks have arrays of different types or shapes, or of
                another type than can be added up; `out` is none for `x`. On every rank.
            ProtocolError: a rank, or somebody on the wire, changed what decides the sum, or a message. On
                every rank, as long as not two messages of one sum are changed on their way, nor one into an
                error that no rank told.
            SiloflError: anything else that a rank raised, of which the others are told type and place. On
                every rank, but for an error after the last message, such as of no room on a tensor's device.
        """
        self._marks.begin()
        self._round = self._session.take_number()  # on every rank, whichever fails
        self._summing, self._making, self._gathering = True, False, False
        added_up = capture(lambda: self._add_up(x, out))
        if added_up.failed:
            self._end(added_up)
        result: Array = _like(x, added_up.value()) if out is None else out
        return result

    def _add_up(self, x: Any, kept: Any) -> Vector:
        values = _as_vector(x)
        out = np.empty_like(values) if kept is None else _as_target(kept, x, values.dtype)
        self._making = self._sum is None or self._sum.spec.vector(NAME).size != values.size
        advertised = self._advertise({"shape": _shape(x), "dtype": values.dtype.name})
        if self._making:
            self._drop()
            self._sum = self._make(values.size, values.dtype)
        assert self._sum is not None, "made where there was none"
        contribution = Contribution({NAME: values})
        magnitudes = measure(contribution, self._sum.spec)
        total = float(self._comm.size)
        opened = self._sum.open(contribution, total, self._round, magnitudes, advertised=advertised)
        self._gathering = True
        opened.gather(total, NAME, out)
        return out

    def _end(self, failed: Result[Any]) -> NoReturn:
        """Raise on every rank what this rank raised alone, or what it was told; collective."""
        comm, marks = self._comm, self._marks
        error = failed.error(comm.rank)
        assert error is not None, "called for an error alone"
        cause, ending = error.__cause__, error
        if isinstance(cause, of_transport(comm)):
            raise cause  # no message passes any more
        if marks.told is None and not self._gathering:
            told = capture(lambda: self._tell(failed)).error(comm.rank)
            ending = error if told is None else told
        if self._making and marks.messages > 1:  # beyond what all ranks agreed to make
            self._drop()
        ending.rank = comm.rank if ending.rank is None else ending.rank
        raise ending from cause

    def _tell(self, failed: Result[Any]) -> NoReturn:
        """Do what the others do until their next message, and send this rank's error there; collective."""
        error = failed.error(self._comm.rank, text=False)
        assert error is not None, "called for an error alone"
        due = self._next_message()
        if self._sum is not None and due == "":
            self._sum.gather_nothing(error)
        if self._sum is not None and due == "tail" and not self._sum.collected:
            self._sum.collect_nothing()
        self._marks.tell(error, to_each=due == "share")

    def _next_message(self) -> str:
        """Which message of the sum is the next of all ranks; empty where none is left."""
        made = ["make"] if self._making else []
        ranges = ["ranges"] if self._summing and self._settings.range is None else []
        messages = ["advert", *made, "share", *ranges, "tail", "vote", "reveal", ""]
        return messages[self._marks.messages] if self._summing else "advert"

    def _drop(self) -> None:
        if self._sum is not None:
            self._sum.close()
            self._sum = None

    def close(self) -> None:
        """Release buffers and communicator; collective."""
        self._drop()
        self._comm.free()

    def __enter__(self) -> SecureAggregator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if not (
            isinstance(error, SiloflError) and error.rank is None
        ):  # of this rank alone: nobody else closes
            self.close()

    def _advertise(self, form: Mapping[str, Any]) -> AdvertisedRound:
        """Begin the sum's round by adverts in which each rank signs what form its array has; collective."""
        session = self._session
        try:
            context = session.round(self._round, json.dumps(form).encode())
            return AdvertisedRound(session.group.comm, context, session.identity)
        except OtherTermsError as other:
            refused = other
        self._making = False  # nothing was agreed
        told = capture(lambda: _refuse_differences(self._comm, form)).error(0) or refused
        self._marks.told = told  # all ranks found the same
        raise told

    def _make(self, size: int, dtype: np.dtype[Any]) -> SecAggSum:
        vectors = (VectorSpec(NAME, size, weighting="uniform"),)
        spec = AggregationSpec(vectors, dtype, 1, 0, bytes(32), self._comm.size)
        settings = self._settings
        stochastic = settings.rounding == "stochastic"
        return SecAggSum(self._session, spec, value_range=settings.range, stochastic=stochastic)


def secure_sum(x: Array, *, comm: Any, bits: int = 16, value_range: float | None = None) -> Array:
    """The sum of `x` over the ranks of `comm`, no rank seeing another's; collective.

    One round by a `SecureAggregator` of its own; a program that adds up often keeps one.
    """
    with SecureAggregator(comm, bits=bits, value_range=value_range) as aggregator:
        return aggregator.sum(x)


def _refuse_unused(config: SecureConfig) -> None:
    """Raise ConfigError for keys of [secure] that do nothing in a secure sum by itself."""
    unused = {
        "protocol": config.protocol not in ("auto", "secagg"),
        "committee": "committee" in config.model_fields_set,
        "recompute": "recompute" in config.model_fields_set,
        "bits": "bits" in config.model_fields_set,
        "range": "range" in config.model_fields_set,
    }
    instead = {"bits": "; give it as bits=", "range": "; give it as value_range="}
    for key, refused in unused.items():
        if refused:
            raise ConfigError(
                f"secure.{key} = {getattr(config, key)!r} does nothing in a secure sum by itself, which is "
                f"always secagg's{instead.get(key, '; leave it out')}"
            )


def _refuse_mixed_keys(comm: Communicator, settings: SecureConfig) -> None:
    """Raise ConfigError on every rank where only some ranks have an identity; collective."""
    mixed = mixed_keys(allgather_object(comm, has_keys(settings)))
    if mixed is not None:
        raise mixed


def _refuse_differences(comm: Communicator, own: Mapping[str, Any]) -> None:
    """Raise DataError or ConfigError, the same on every rank, where one has something else; collective."""
    text = json.dumps(own).encode()
    usual = comm.allgather_bytes(text)
    if all(other == text for other in usual):  # on all ranks or on none
        return
    every = allgather_object(comm, dict(own))
    for key, value in every[0].items():
        for rank, other in enumerate(every):
            if other.get(key) != value:
                kind = DataError if key in ("shape", "dtype") else ConfigError
                raise kind(
                    f"a secure sum needs the same {key} on all ranks: it is {value!r} on rank 0 and "
                    f"{other.get(key)!r} on rank {rank}",
                    rank=0,
                )


def _as_vector(x: Any) -> Vector:
    array = x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
    if array.dtype not in (np.float32, np.float64):
        raise DataError(f"a secure sum takes float32 or float64, not {array.dtype}")
    if array.size == 0:
        raise DataError("a secure sum needs at least one value")
    return np.ascontiguousarray(array).reshape(-1)


def _as_target(out: Any, x: Any, dtype: np.dtype[Any]) -> Vector:
    """The memory of `out` (d,), to write the sum of `x` to."""
    is_tensor = hasattr(out, "detach")
    if is_tensor != hasattr(x, "detach") or not (
        out.device.type == "cpu" if is_tensor else isinstance(out, np.ndarray)
    ):
        raise DataError("out has to be what x is, a NumPy array or a tensor, and a tensor on the CPU")
    name, shape = str(out.dtype).removeprefix("torch."), list(out.shape)
    if name != dtype.name or shape != _shape(x):
        raise DataError(f"out is {name} of shape {shape} where x is {dtype.name} of shape {_shape(x)}")
    array: Vector = out.detach().numpy() if is_tensor else out
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise DataError("out has to be in C order and writable")
    return array.reshape(-1)


def _shape(x: Any) -> list[int]:
    shape: tuple[int, ...] = x.shape if hasattr(x, "shape") else np.shape(x)
    return list(shape)


def _like(x: Any, values: Vector) -> Any:
    """The values as what `x` is: an array, or a tensor on its device."""
    if not hasattr(x, "detach"):
        return values.reshape(np.shape(x))
    tensor = x.new_empty(x.shape, device="cpu")
    tensor.numpy()[...] = values.reshape(tuple(x.shape))
    return tensor.to(x.device)
