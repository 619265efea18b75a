"""The Verilog engine as a Python object: memories through its host port, runs with all probes."""

import ctypes
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnhw.dtypes import Array
from bnhw.errors import RtlFailed
from bnhw.hardware.arch import Arch
from bnhw.hardware.trace import MemoryKind
from bnhw.rtl.image import Words, unpacked
from bnhw.rtl.parameters import HOST_BITS, HOST_MEMORIES

RAW, Q, NUMBER, STEP = range(4)
"""The probes of `wrapper.cpp`."""

COUNTERS = 11
"""Numbers of an entry of the last one: clamped sums, words read of each memory, words written of those of tensors."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """What passed one place of the pipeline: int64 (blocks, pe) in the order of pixels and blocks, and its cycles."""

    values: Array
    cycles: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One run of a program. Cycles count from 1, the first step's first.

    step_ends: the last cycle of every step. saturations: clamped sums in every step. reads, writes: words that pass
    each memory's ports in every step; of the activation memory, of one bank each.
    """

    raw: Probe
    q: Probe
    number: Probe
    step_ends: Array
    saturations: Array
    reads: Mapping[MemoryKind, Array]
    writes: Mapping[MemoryKind, Array]

    @property
    def step_cycles(self) -> Array:
        """Cycles of every step."""
        return np.diff(self.step_ends, prepend=0)


class Driver:
    """An engine built for `arch`, by its library.

    seed: of the random bits with which registers and memories begin.
    """

    def __init__(self, library: Path, arch: Arch, *, host_bits: int = HOST_BITS, seed: int = 1) -> None:
        self.arch = arch
        self.host_bits = host_bits
        self._library = _declared(ctypes.CDLL(str(library)))
        self._handle = self._library.engine_new(seed)
        weakref.finalize(self, self._library.engine_delete, self._handle)
        self._beat_bytes, *self._probe_bytes = (self._library.engine_bytes(self._handle, n) for n in range(4))

    def load(self, images: Mapping[MemoryKind, Words]) -> None:
        """Write the images of whole memories, from their first words on."""
        for memory, words in images.items():
            self.write(memory, 0, words)

    def write(self, memory: MemoryKind, address: int, words: Words) -> None:
        """Write words from an address of the host port on."""
        beats = -(-words.bits // self.host_bits)
        data = np.zeros((len(words.data), beats, self._beat_bytes), np.uint8)
        used = self.host_bits // 8
        padded = np.pad(words.data, ((0, 0), (0, beats * used - words.data.shape[1])))
        data[:, :, :used] = padded.reshape(len(padded), beats, used)
        number = HOST_MEMORIES.index(memory)
        if not self._library.engine_write(self._handle, number, address, len(data), beats, data.ctypes.data):
            raise RtlFailed(f"the engine's host port is not ready to write {memory.value}")

    def read(self, memory: MemoryKind, address: int, words: int) -> Words:
        """Read words from an address of the host port on."""
        bits = self.arch.word_bits(memory)
        beats = -(-bits // self.host_bits)
        data = np.zeros((words, beats, self._beat_bytes), np.uint8)
        number = HOST_MEMORIES.index(memory)
        if not self._library.engine_read(self._handle, number, address, words, beats, data.ctypes.data):
            raise RtlFailed(f"the engine's host port does not answer for {memory.value}")
        joined = data[:, :, : self.host_bits // 8].reshape(words, -1)[:, : -(-bits // 8)]
        return Words(bits=bits, data=joined)

    def run(self, most_cycles: int) -> Run:
        """Run the loaded program once. Raises RtlFailed where it is not done after so many cycles."""
        if self._library.engine_run(self._handle, most_cycles) < 0:
            raise RtlFailed(f"the engine is not done after {most_cycles} cycles")
        counters = self._data(STEP, 8 * COUNTERS).view(np.uint64).reshape(-1, COUNTERS).astype(np.int64)
        by_step = np.diff(counters, axis=0, prepend=np.zeros((1, COUNTERS), np.int64)).T
        return Run(
            raw=self._probe(RAW, self.arch.acc_bits),
            q=self._probe(Q, self.arch.result_bits),
            number=self._probe(NUMBER, self.arch.result_bits),
            step_ends=self._cycles(STEP),
            saturations=by_step[0],
            reads=dict(zip(HOST_MEMORIES, by_step[1:], strict=False)),
            writes=dict(zip(HOST_MEMORIES[:2], by_step[-2:], strict=True)),
        )

    def _cycles(self, probe: int) -> Array:
        count = self._library.engine_probe_count(self._handle, probe)
        address = self._library.engine_probe_cycles(self._handle, probe)
        return np.frombuffer(ctypes.string_at(address, 8 * count), np.uint64).astype(np.int64)

    def _data(self, probe: int, size: int) -> Array:
        count = self._library.engine_probe_count(self._handle, probe)
        address = self._library.engine_probe_data(self._handle, probe)
        return np.frombuffer(ctypes.string_at(address, size * count), np.uint8).reshape(count, size)

    def _probe(self, probe: int, bits: int) -> Probe:
        data = self._data(probe, self._probe_bytes[probe])
        return Probe(values=unpacked(data, bits, self.arch.pe, signed=True), cycles=self._cycles(probe))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The functions of `wrapper.cpp` with their types."""
    handle, pointer, integer, natural = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32
    transfer = (handle, integer, natural, natural, natural, pointer)
    types = {
        "engine_new": (handle, (integer,)),
        "engine_delete": (None, (handle,)),
        "engine_bytes": (natural, (handle, integer)),
        "engine_write": (integer, transfer),
        "engine_read": (integer, transfer),
        "engine_run": (ctypes.c_int64, (handle, ctypes.c_uint64)),
        "engine_probe_count": (ctypes.c_uint64, (handle, integer)),
        "engine_probe_data": (pointer, (handle, integer)),
        "engine_probe_cycles": (pointer, (handle, integer)),
    }
    for name, (result, arguments) in types.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
