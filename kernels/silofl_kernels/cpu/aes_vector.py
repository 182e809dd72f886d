"""AES-CTR as processor instructions: x86 AES-NI (128 bits) and VAES (256 or 512 bits).

FIPS 197 and NIST SP 800-38A. Eight registers of counter blocks go through the rounds side by side, which
hides the latency of a round.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir

from silofl_kernels.cpu.aes import FIRST_SLOT, ROUNDS_SLOT
from silofl_kernels.cpu.llvm_ir import I32, I64, cgutils, intrinsic_call, splat

_REGISTER_BYTES = {"vaes512": 64, "vaes256": 32, "aesni": 16}
_SUFFIX = {"vaes512": ".512", "vaes256": ".256", "aesni": ""}


class AesVector:
    """`vector.Cipher` on path "vaes512", "vaes256" or "aesni"."""

    registers = 8

    def __init__(self, path: str) -> None:
        self.lanes = _REGISTER_BYTES[path] // 8
        self.vector = ir.VectorType(I64, self.lanes)
        self._suffix = _SUFFIX[path]

    def blocks(self, builder: Any, schedule: Any, counter: Any) -> list[Any]:
        """Ciphers of the counter blocks `counter`, `counter` + 1, ... in order."""
        rounds = builder.load(builder.gep(schedule, [I64(ROUNDS_SLOT)]))
        first = builder.add(counter, builder.load(builder.gep(schedule, [I64(FIRST_SLOT)])))
        whitened = builder.xor(
            self._round_key(builder, schedule, I64(0)), self._counter_block(builder, first)
        )
        places = [cgutils.alloca_once(builder, self.vector) for _ in range(self.registers)]
        for place, number in zip(places, self._numbers(), strict=True):
            builder.store(builder.xor(whitened, number), place)
        with cgutils.for_range(builder, rounds, start=I64(1), intp=I64) as loop:
            key = self._round_key(builder, schedule, loop.index)
            for place in places:
                builder.store(self._round(builder, "aesenc", builder.load(place), key), place)
        key = self._round_key(builder, schedule, rounds)
        return [self._round(builder, "aesenclast", builder.load(place), key) for place in places]

    def _round(self, builder: Any, name: str, block: Any, key: Any) -> ir.Value:
        return intrinsic_call(builder, f"llvm.x86.aesni.{name}{self._suffix}", self.vector, block, key)

    def _round_key(self, builder: Any, schedule: Any, number: Any) -> ir.Value:
        at = builder.gep(schedule, [builder.shl(number, I64(1))])
        key = builder.load(builder.bitcast(at, ir.VectorType(I64, 2).as_pointer()))
        key.align = 8
        pattern = ir.Constant(ir.VectorType(I32, self.lanes), [0, 1] * (self.lanes // 2))
        return builder.shuffle_vector(key, key, pattern)

    def _counter_block(self, builder: Any, first: Any) -> ir.Value:
        """The counter block `first` in each 128 bits: zero, then `first` as a big-endian integer."""
        number = splat(builder, self.vector, intrinsic_call(builder, "llvm.bswap.i64", I64, first))
        zero = ir.Constant(self.vector, [0] * self.lanes)
        pattern = ir.Constant(ir.VectorType(I32, self.lanes), [self.lanes, 1] * (self.lanes // 2))
        return builder.shuffle_vector(number, zero, pattern)

    def _numbers(self) -> Iterator[ir.Value]:
        """0, 1, 2, ... as last byte of the blocks; `first` is a multiple of 64, so nothing carries."""
        blocks = self.lanes // 2
        for register in range(self.registers):
            last_bytes = [(blocks * register + block) << 56 for block in range(blocks)]
            yield ir.Constant(self.vector, [half for byte in last_bytes for half in (0, byte)])
