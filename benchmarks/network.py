"""How many images per second do whole networks run at, here and under other engines, on this machine?

    python benchmarks/network.py MODEL.onnx PROGRAM.bnhw --images IMAGES [--batch N] [--threads N] [--json FILE]
    python benchmarks/network.py MODEL.onnx PROGRAM.bnhw --images IMAGES --checkpoint CHECKPOINT
    python benchmarks/network.py MODEL.onnx PROGRAM.bnhw --images IMAGES --only bnhw --threads 2 --count 10000 \\
        --batch 1000 --rounds 1

Engines take turns in one process; a figure is that of the fastest round, the spread is the slowest round over the
fastest, and a ratio comes with the least and the greatest of a round. Ours must first equal the reference on two
images, integer by integer; of every other engine, the share of images on which it gives the class of onnxruntime in
fp32 is shown. The int8 models of onnxruntime and OpenVINO are made by onnxruntime's static quantisation, calibrated on
the images. PyTorch takes part where CHECKPOINT, from which the model was exported, is given. Engines that are not
installed are left out, those that fail are named with their error; `pip install 'bnhw[bench]'` gets them all.
Peak memory is that of a process that does nothing but run ours.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from peaks import describe_machine
from rich.console import Console
from rich.table import Table
from turns import Ratio, one_line, ratio_of_calls

import bnhw
from bnhw.dtypes import Array
from bnhw.images import read_images
from bnhw.machine import Machine

Engine = Callable[[Array], Array]
"""uint8 images (images, height, width, channels) -> logits (images, classes)."""

Build = Callable[[], Engine]

OURS, FP32 = "bnhw", "onnxruntime fp32"
CALIBRATION_IMAGES = 32
MEMORY_SCRIPT = """
import sys
from pathlib import Path
import bnhw
from bnhw.images import read_images
images = read_images(Path(sys.argv[2])).pixels[: int(sys.argv[4])]
bnhw.run(bnhw.load(sys.argv[1]), images, threads=int(sys.argv[3]), kernels=sys.argv[5])
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One engine: images per second of the fastest round, slowest over fastest, and its classes against fp32's.

    agreement, ours_over_it: None where fp32, or ours, takes no part. seconds: of each round.
    """

    engine: str
    images_per_second: float
    spread: float
    agreement: float | None
    ours_over_it: Ratio | None
    seconds: Sequence[float]


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


def openvino_engine(model: Path, threads: int, batch: int, precision: str | None = None) -> Engine:
    """OpenVINO on the CPU for one size of batch; a model of quantise and dequantise steps runs in int8.

    precision: "f32" or "bf16" for what is not int8; without it OpenVINO takes the one that is faster on this machine.
    """
    import openvino  # noqa: PLC0415  (optional)

    core = openvino.Core()
    network = core.read_model(str(model))
    shape = list(network.inputs[0].partial_shape)
    network.reshape([batch, *[int(size.get_length()) for size in shape[1:]]])
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    settings["ENABLE_CPU_PINNING"] = False  # the process is pinned, or not, as a whole
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
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


def builders(options: argparse.Namespace, machine: Machine, images: Array, folder: Path) -> dict[str, Build]:
    """What makes each engine that is installed, ours first."""
    model, batch, threads = options.model, options.batch, options.threads
    calibration = images[:CALIBRATION_IMAGES]

    @cache
    def int8() -> Path:
        return quantise(model, calibration, folder)

    found: dict[str, Build] = {
        OURS: lambda: lambda batch: machine.run(batch, threads=threads).logits,
        FP32: lambda: onnxruntime_engine(model, threads),
        "onnxruntime int8": lambda: onnxruntime_engine(int8(), threads),
    }
    if find_spec("openvino") is not None:
        found["openvino fp32"] = lambda: openvino_engine(model, threads, batch, "f32")
        found["openvino bf16"] = lambda: openvino_engine(model, threads, batch, "bf16")
        found["openvino int8"] = lambda: openvino_engine(int8(), threads, batch)
    if options.checkpoint is not None and find_spec("torch") is not None:
        from network_torch import torch_builders  # noqa: PLC0415  (optional)

        found |= torch_builders(options.checkpoint, calibration, threads)
    return found


def build(wanted: Mapping[str, Build], only: Sequence[str]) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines named in `only`, or all, and the errors of those that cannot be built."""
    engines: dict[str, Engine] = {}
    errors: dict[str, str] = {name: "not installed, or without its checkpoint" for name in only if name not in wanted}
    for name, make in wanted.items():
        if only and name not in only:
            continue
        try:
            engines[name] = make()
        except Exception as error:  # whatever an engine raises
            errors[name] = one_line(error)
    return engines, errors


def check_exact(machine: Machine, images: Array) -> None:
    """Raise AssertionError unless the logits of two images are the reference's."""
    reference = Machine(machine.program, "reference").run(images[:2]).logits
    assert np.array_equal(machine.run(images[:2]).logits, reference), "bnhw is not exact"


def measure(found: Mapping[str, Engine], images: Array, batch: int, rounds: int) -> tuple[list[Figure], dict[str, str]]:
    """Figures of every engine, in turns over the same images, and the errors of those that failed."""
    batches = [images[start : start + batch] for start in range(0, len(images) // batch * batch, batch)]
    seconds: dict[str, list[float]] = {name: [] for name in found}
    classes: dict[str, Array] = {}
    errors: dict[str, str] = {}
    for number in range(rounds):
        for name, engine in found.items():
            if name in errors:
                continue
            try:
                if number == 0 and FP32 in found:
                    classes[name] = np.concatenate([engine(part) for part in batches]).argmax(axis=1)
                engine(batches[0])  # its caches are warm again
                start = time.perf_counter()
                for part in batches:
                    engine(part)
                seconds[name].append(time.perf_counter() - start)
            except Exception as error:  # whatever an engine raises
                assert name != OURS, f"{OURS} failed: {one_line(error)}"
                errors[name] = one_line(error)
    count = batch * len(batches)
    kept = {name: times for name, times in seconds.items() if name not in errors}
    figures = [
        Figure(
            engine=name,
            images_per_second=count / min(times),
            spread=max(times) / min(times),
            agreement=float((classes[name] == classes[FP32]).mean()) if FP32 in kept else None,
            ours_over_it=ratio_of_calls(kept[OURS], times) if OURS in kept else None,
            seconds=times,
        )
        for name, times in kept.items()
    ]
    return figures, errors


def peak_memory_bytes(options: argparse.Namespace) -> int:
    """Most resident memory of a process that runs ours on `memory_count` images; Linux only."""
    arguments = [options.program, options.images, options.threads, options.memory_count, options.kernels]
    command = [sys.executable, "-c", MEMORY_SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  (our own interpreter)
    return 1024 * int(done.stdout)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the float network (.onnx)")
    parser.add_argument("program", type=Path, help="the same network, compiled (.bnhw)")
    parser.add_argument("--images", type=Path, required=True, help="images as `bnhw run` takes them")
    parser.add_argument("--checkpoint", type=Path, help="what `bnhw export` made the model from, for PyTorch")
    parser.add_argument("--only", nargs="+", default=[], metavar="ENGINE", help='these engines, such as "torch int8"')
    parser.add_argument("--kernels", default="auto", help="as `bnhw run` takes it")
    parser.add_argument("--batch", type=int, default=16, help="images of one call")
    parser.add_argument("--count", type=int, default=64, help="images of one round")
    parser.add_argument("--memory-count", type=int, default=640, help="images of the run whose memory is measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.batch > options.count:
        parser.error(f"--batch {options.batch} is more than --count {options.count}")
    return options


def figures_table(figures: Sequence[Figure]) -> Table:
    """A row for each engine."""
    table = Table("engine", "images/s", "slowest / fastest", "classes as fp32", "ours is faster by", box=None)
    for figure in figures:
        agreement = "" if figure.agreement is None else f"{100 * figure.agreement:.0f} %"
        ratio = "" if figure.ours_over_it is None else str(figure.ours_over_it)
        table.add_row(figure.engine, f"{figure.images_per_second:.1f}", f"{figure.spread:.2f}", agreement, ratio)
    return table


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    options = parse()
    console = Console(width=120)
    images = read_images(options.images).pixels[: options.count]
    machine = Machine(bnhw.load(options.program), options.kernels)
    check_exact(machine, images)
    with tempfile.TemporaryDirectory() as folder:
        found, errors = build(builders(options, machine, images, Path(folder)), options.only)
        figures, failed = measure(found, images, options.batch, options.rounds)
    errors |= failed
    memory = peak_memory_bytes(options) if OURS in found else None
    console.print(figures_table(figures))
    for name, error in errors.items():
        console.print(f"left out: {name}: {error}", soft_wrap=True)
    if memory is not None:
        console.print(f"peak memory of bnhw alone: {memory / 1e6:.0f} MB")
    if options.json is not None:
        written: dict[str, Any] = {"machine": describe_machine(), "peak_memory_bytes": memory, "left_out": errors}
        written |= {name: getattr(options, name) for name in ("batch", "count", "threads", "memory_count", "kernels")}
        written["engines"] = [asdict(figure) for figure in figures]
        options.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
