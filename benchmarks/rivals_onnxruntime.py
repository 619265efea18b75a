"""Chains under onnxruntime on one thread, inputs and outputs bound: float32, and `QLinearConv` in both layouts."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper
from rivals import Build, Chain, Values

OPSETS = (("", 21), ("com.microsoft", 1))
IR_VERSION = 10
TOLERANCE = 1e-5
PADS = [1, 1, 1, 1]


def float_chain(values: Values, length: int) -> Chain:
    """`Conv` and `Relu`; the scale is in the weights. onnxruntime picks the layout in between itself."""
    nodes, constants = [], []
    for number, signs in enumerate(values.signs[:length]):
        weights = (signs / values.scale).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"weights{number}"))
        nodes.append(helper.make_node("Conv", [f"x{number}", f"weights{number}"], [f"sums{number}"], pads=PADS))
        nodes.append(helper.make_node("Relu", [f"sums{number}"], [f"x{number + 1}"]))
    first = np.ascontiguousarray(values.codes.transpose(0, 3, 1, 2), np.float32)
    return _chain(nodes, constants, first, TensorProto.FLOAT, tolerance=TOLERANCE)


def integer_chain(*, channels_last: bool) -> Build:
    """`QLinearConv` of ONNX, or of onnxruntime itself, which takes (images, height, width, channels)."""

    def build(values: Values, length: int) -> Chain:
        numbers = {"one": np.float32(1), "codes_zero": np.uint8(0), "weights_zero": np.int8(0)}
        numbers["scale"] = np.float32(values.scale)
        constants = [numpy_helper.from_array(np.array(value), name) for name, value in numbers.items()]
        nodes = []
        attributes: dict[str, Any] = {"domain": "com.microsoft", "channels_last": 1} if channels_last else {}
        for number, signs in enumerate(values.signs[:length]):
            constants.append(numpy_helper.from_array(signs, f"weights{number}"))
            weights = [f"weights{number}", "one", "weights_zero"]
            inputs = [f"x{number}", "one", "codes_zero", *weights, "scale", "codes_zero"]
            nodes.append(helper.make_node("QLinearConv", inputs, [f"x{number + 1}"], pads=PADS, **attributes))
        first = values.codes if channels_last else np.ascontiguousarray(values.codes.transpose(0, 3, 1, 2))
        return _chain(nodes, constants, first, TensorProto.UINT8, channels_last=channels_last)

    return build


def _chain(
    nodes: list[NodeProto],
    constants: list[TensorProto],
    first: npt.NDArray[np.float32] | npt.NDArray[np.uint8],
    kind: int,
    *,
    channels_last: bool = False,
    tolerance: float | None = None,
) -> Chain:
    name = nodes[-1].output[0]
    ends = [helper.make_tensor_value_info(tensor, kind, list(first.shape)) for tensor in ("x0", name)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in OPSETS])
    model.ir_version = IR_VERSION
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    result = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(first))
    binding.bind_ortvalue_input("x0", onnxruntime.OrtValue.ortvalue_from_numpy(first))
    binding.bind_ortvalue_output(name, result)

    def first_image() -> npt.NDArray[np.float64]:
        image: npt.NDArray[np.float64] = result.numpy()[0].astype(np.float64)
        return image if channels_last else image.transpose(1, 2, 0)

    return Chain(run=lambda: session.run_with_iobinding(binding), first_image=first_image, tolerance=tolerance)


BUILDS = {
    "onnxruntime fp32": {"NCHW": float_chain},
    "onnxruntime int8": {
        "NHWC": integer_chain(channels_last=True),
        "NCHW": integer_chain(channels_last=False),
    },
}
