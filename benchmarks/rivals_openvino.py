"""Chains under OpenVINO on one thread: unsigned codes and signed weights, `FakeQuantize` between the layers."""

from typing import Any

import numpy as np
import openvino
from openvino import opset13 as op
from rivals import Chain, Values

SETTINGS = {
    "INFERENCE_NUM_THREADS": 1,
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # the process is pinned, or not, as a whole
}
INTEGER_PRECISIONS = {"u8", "i8"}
CORE = openvino.Core()


def integer_chain(values: Values, length: int) -> Chain:
    """Codes in and out as they lie in memory, (images, height, width, channels).

    Raises AssertionError where a convolution does not run on integers of 8 bits.
    """
    compiled = CORE.compile_model(_model(values, length), "CPU", SETTINGS)
    kinds = convolution_precisions(compiled)
    assert len(kinds) == length and set(kinds) <= INTEGER_PRECISIONS, f"convolutions run in {kinds}, not in int8"
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(values.codes, shared_memory=True))
    return Chain(run=request.infer, first_image=lambda: np.array(request.get_output_tensor().data[0]))


def convolution_precisions(compiled: Any) -> list[str]:
    """The type that each convolution of a compiled model reads, as the plugin says."""
    infos = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    return [info["runtimePrecision"].astype(str) for info in infos if info["layerType"].astype(str) == "Convolution"]


def _model(values: Values, length: int) -> openvino.Model:
    codes = op.parameter(list(values.codes.shape), np.uint8)
    result = _as_codes(op.convert(op.transpose(codes, op.constant(np.array([0, 3, 1, 2]))), "f32"))
    scales = np.full((values.codes.shape[3], 1, 1, 1), 1 / values.scale, np.float32)
    for signs in values.signs[:length]:
        weights = op.multiply(op.convert(op.constant(signs), "f32"), op.constant(scales))
        result = _as_codes(op.relu(op.convolution(result, weights, [1, 1], [1, 1], [1, 1], [1, 1])))
    last = op.transpose(op.convert(result, "u8"), op.constant(np.array([0, 2, 3, 1])))
    return openvino.Model([last], [codes], "chain")


def _as_codes(values: Any) -> Any:
    low, high = np.float32(0), np.float32(255)
    return op.fake_quantize(values, low, high, low, high, 256)


BUILDS = {"openvino int8": {"NHWC": integer_chain}}
