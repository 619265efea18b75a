"""How many images per second do whole networks run at, here and under other engines, on this machine?

    python benchmarks/network.py MODEL.onnx PROGRAM.bnhw --images IMAGES [--batch N] [--threads N] [--json FILE]

Engines take turns in one process; a figure is that of the fastest round, the spread is the slowest round over the
fastest. Ours must first equal the reference on two images, integer by integer; of every other engine, the share of
images on which it gives the float model's class is shown. The int8 models of the others are made by onnxruntime's
static quantisation, calibrated on the images. Engines that are not installed are left out; `pip install
'bnhw[bench]'` gets them. Peak memory is that of a process that does nothing but run ours.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import bnhw
from bnhw.dtypes import Array
from bnhw.images import read_images
from bnhw.machine import Machine

Engine = Callable[[Array], Array]
"""uint8 images (images, height, width, channels) -> logits (images, classes)."""

CALIBRATION_IMAGES = 32
MEMORY_SCRIPT = """
import sys
from pathlib import Path
import bnhw
from bnhw.images import read_images
images = read_images(Path(sys.argv[2])).pixels[: int(sys.argv[4])]
bnhw.run(bnhw.load(sys.argv[1]), images, threads=int(sys.argv[3]))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One engine: images per second of the fastest round, slowest over fastest, and its classes against fp32's."""

    engine: str
    images_per_second: float
    spread: float
    agreement: float
    ours_over_it: float


def to_float(images: Array) -> Array:
    """As the ONNX model takes them: float32 (images, channels, height, width)."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)


def onnxruntime_engine(model: Path, threads: int) -> Engine:
    """onnxruntime on the CPU, in batches as they come."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: to_float(images)})[0]).reshape(len(images), -1)


def openvino_engine(model: Path, threads: int, batch: int) -> Engine:
    """OpenVINO on the CPU for one size of batch; a model of quantise and dequantise steps runs in int8."""
    import openvino  # noqa: PLC0415  (optional)

    core = openvino.Core()
    network = core.read_model(str(model))
    shape = list(network.inputs[0].partial_shape)
    network.reshape([batch, *[int(size.get_length()) for size in shape[1:]]])
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda images: np.array(request.infer([to_float(images)])[0]).reshape(len(images), -1)


class _Calibration:
    """Images for onnxruntime's quantiser, one at a time."""

    def __init__(self, name: str, images: Array) -> None:
        self.name = name
        self.images: Iterator[Array] = iter(to_float(images))

    def get_next(self) -> Mapping[str, Array] | None:
        """The next input, or None at the end."""
        image = next(self.images, None)
        return None if image is None else {self.name: image[np.newaxis]}


def quantise(model: Path, images: Array, folder: Path) -> Path:
    """The model in int8 by onnxruntime's static quantisation: uint8 activations, int8 weights per channel."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415  (slow to import)

    name = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    target = folder / "int8.onnx"
    quantize_static(
        str(model),
        str(target),
        _Calibration(name, images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv"],
    )
    return target


def engines(model: Path, machine: Machine, images: Array, folder: Path, batch: int, threads: int) -> dict[str, Engine]:
    """Every engine that is installed, ours first."""
    found: dict[str, Engine] = {"bnhw": lambda batch: machine.run(batch, threads=threads).logits}
    found["onnxruntime fp32"] = onnxruntime_engine(model, threads)
    int8 = quantise(model, images[:CALIBRATION_IMAGES], folder)
    found["onnxruntime int8"] = onnxruntime_engine(int8, threads)
    if find_spec("openvino") is not None:
        found["openvino fp32"] = openvino_engine(model, threads, batch)
        found["openvino int8"] = openvino_engine(int8, threads, batch)
    return found


def check_exact(machine: Machine, images: Array) -> None:
    """Raise AssertionError unless the logits of two images are the reference's."""
    reference = Machine(machine.program, "reference").run(images[:2]).logits
    assert np.array_equal(machine.run(images[:2]).logits, reference), "bnhw is not exact"


def measure(found: Mapping[str, Engine], images: Array, batch: int, rounds: int) -> list[Figure]:
    """Figures of every engine, in turns over the same images."""
    batches = [images[start : start + batch] for start in range(0, len(images) // batch * batch, batch)]
    classes = {
        name: np.concatenate([engine(part) for part in batches]).argmax(axis=1) for name, engine in found.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, engine in found.items():
            engine(batches[0])  # its caches are warm again
            start = time.perf_counter()
            for part in batches:
                engine(part)
            seconds[name].append(time.perf_counter() - start)
    count = batch * len(batches)
    ours = min(seconds["bnhw"])
    return [
        Figure(
            engine=name,
            images_per_second=count / min(times),
            spread=max(times) / min(times),
            agreement=float((classes[name] == classes["onnxruntime fp32"]).mean()),
            ours_over_it=min(times) / ours,
        )
        for name, times in seconds.items()
    ]


def peak_memory_bytes(program: Path, images: Path, threads: int, count: int) -> int:
    """Most resident memory of a process that runs so many images; Linux only."""
    arguments = [sys.executable, "-c", MEMORY_SCRIPT, str(program), str(images), str(threads), str(count)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)  # noqa: S603  (our own interpreter)
    return 1024 * int(done.stdout)


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the float network (.onnx)")
    parser.add_argument("program", type=Path, help="the same network, compiled (.bnhw)")
    parser.add_argument("--images", type=Path, required=True, help="images as `bnhw run` takes them")
    parser.add_argument("--kernels", default="auto", help="as `bnhw run` takes it")
    parser.add_argument("--batch", type=int, default=16, help="images of one call")
    parser.add_argument("--count", type=int, default=64, help="images of one round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    images = read_images(options.images).pixels[: options.count]
    machine = Machine(bnhw.load(options.program), options.kernels)
    check_exact(machine, images)
    with tempfile.TemporaryDirectory() as folder:
        found = engines(options.model, machine, images, Path(folder), options.batch, options.threads)
        figures = measure(found, images, options.batch, options.rounds)
    memory = peak_memory_bytes(options.program, options.images, options.threads, 10 * options.count)
    table = Table("engine", "images/s", "slowest / fastest", "classes as fp32", "ours is faster by", box=None)
    for figure in figures:
        table.add_row(
            figure.engine,
            f"{figure.images_per_second:.1f}",
            f"{figure.spread:.2f}",
            f"{100 * figure.agreement:.0f} %",
            f"{figure.ours_over_it:.2f} x",
        )
    Console().print(table)
    Console().print(f"peak memory of bnhw alone: {memory / 1e6:.0f} MB")
    if options.json is not None:
        written: dict[str, Any] = {"batch": options.batch, "threads": options.threads, "peak_memory_bytes": memory}
        written["engines"] = [asdict(figure) for figure in figures]
        options.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
