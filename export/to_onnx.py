"""Export of a network to ONNX with its 1-bit weights as two-valued float32 initializers."""

import ast
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Protocol, runtime_checkable

import onnx
import onnx_ir
import onnxscript.optimizer
import onnxscript.rewriter
import torch
from onnx_ir.passes import common as onnx_passes
from onnxscript.rewriter.rules import common as rewrite_rules
from torch import nn

from bnhw.errors import BadInput
from bnhw.files import write_atomically
from bnhw.version import producer

OPSET_VERSION = 18
IR_VERSION = 10
INPUT_NAME = "image"
OUTPUT_NAME = "logits"
MAX_MODEL_BYTES = 2**31 - 1

# The exporter's own optimisation would also fold batch norms into the convolutions before them, which gives
# every output channel a magnitude of its own. These rules only tidy up.
_REWRITE_RULES = (
    rewrite_rules.normalize_pad_format_conv_rule,
    rewrite_rules.fuse_pad_into_conv_rule,
    rewrite_rules.remove_optional_bias_from_conv_rule,
)


@runtime_checkable
class Materialises(Protocol):
    """A module that exports as another one, made of standard layers and constants."""

    def materialise(self) -> nn.Module:
        """The standard form of a module in eval mode."""
        ...


def to_onnx(model: nn.Module, path: str | Path | None = None, *, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Export `model` in eval mode, and write it to `path` if one is given.

    `input_shape` is (channels, height, width). The result has one input "image", float32 (batch, channels,
    height, width) of raw pixel values, and one output "logits"; the batch is free. Every `BinaryConv2d`
    becomes a Conv whose weight initializer holds two values, -scale and +scale; batch norms stay nodes of
    their own. Nodes are named by the module that they come from.

    `model` is left as it was, after an error too: the export works on a deep copy without hooks. Raises
    `BadInput` where the model holds a NaN or infinity, cannot be copied, traced or written.
    """
    if len(input_shape) != 3 or any(type(size) is not int or size < 1 for size in input_shape):
        raise BadInput(f"input_shape is {input_shape!r}; expected (channels, height, width), without the batch")
    proto = _to_proto(_export(_inference_copy(model), input_shape))
    if path is not None:
        write_atomically(Path(path), proto.SerializeToString())
    return proto


def _inference_copy(model: nn.Module) -> nn.Module:
    """A deep copy on the CPU in eval mode, without gradients or hooks, with plain weights and quantisers."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    bad = [name for name, tensor in tensors if not torch.isfinite(tensor).all()]
    if bad:
        raise BadInput(f"the model holds NaN or infinity in {', '.join(bad)}; export a model that has converged")
    try:
        duplicate = copy.deepcopy(model)
    except Exception as error:  # a module's own __deepcopy__ may raise anything
        raise BadInput(f"the model cannot be copied for export: {error}; remove what holds no weights") from error
    duplicate = duplicate.to("cpu").eval().requires_grad_(False)
    for module in duplicate.modules():
        # A hook is the caller's code: it would see, or change, what is traced. torch cannot list them openly.
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()
    return _materialise(duplicate)


def _materialise(module: nn.Module) -> nn.Module:
    if isinstance(module, Materialises):
        return module.materialise()
    for name, child in module.named_children():
        setattr(module, name, _materialise(child))
    return module


def _export(model: nn.Module, input_shape: tuple[int, int, int]) -> onnx_ir.Model:
    image = torch.zeros(2, *input_shape)  # torch.export would make a batch of one a constant
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (image,),
                dynamo=True,
                opset_version=OPSET_VERSION,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever the traced model raises
        raise BadInput(
            f"torch.onnx.export cannot export {type(model).__name__} for images of shape {input_shape}: "
            f"{error}; check input_shape, and that forward takes one batch and does not branch on its values"
        ) from error
    if program is None:
        raise BadInput("torch.onnx.export returned nothing; use torch 2.9 or newer")
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log lines off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)  # torch gives many of its loggers levels and handlers of their own
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _to_proto(model: onnx_ir.Model) -> onnx.ModelProto:
    """Tidy, name and check what the exporter made."""
    onnx_passes.InlinePass()(model)
    for _ in range(2):
        onnxscript.optimizer.fold_constants_ir(model, onnx_shape_inference=True)
        onnxscript.rewriter.RewritePass(_REWRITE_RULES)(model)
        onnx_passes.RemoveUnusedNodesPass()(model)
    onnx_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    onnx_passes.RemoveUnusedNodesPass()(model)
    onnx_passes.RemoveUnusedOpsetsPass()(model)
    _name_nodes(model)
    model.ir_version = IR_VERSION
    model.producer_name, _, model.producer_version = producer().partition(" ")
    model.doc_string = "Network with 1-bit weights; input: raw pixel values 0 to 255."
    model.metadata_props["producer"] = producer()
    proto = onnx_ir.to_proto(model)
    _strip_metadata(proto.graph)
    if proto.ByteSize() > MAX_MODEL_BYTES:
        raise BadInput(f"the ONNX model takes {proto.ByteSize()} bytes; a single file holds {MAX_MODEL_BYTES}")
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _name_nodes(model: onnx_ir.Model) -> None:
    """Name every node "<module path>/<op>", with a number where a module has several of that op."""
    counts: dict[str, int] = {}
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        module = scopes[-2] if len(scopes) > 1 else ""
        name = f"{module}/{node.op_type}" if module else node.op_type
        counts[name] = counts.get(name, 0) + 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"


def _strip_metadata(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes: they name files of the machine that exported."""
    parts = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer, [graph])
    for part in parts:
        for item in part:
            item.ClearField("metadata_props")
            item.ClearField("doc_string")
