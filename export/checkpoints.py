"""Trained networks in files: safetensors, `.pt` read with `weights_only=True`, and the published files.

A checkpoint holds the kind of the network (a key of `bnhw.export.networks.NETWORKS`), its configuration as JSON, its
tensors under the names of `state_dict()`, and free metadata. A safetensors file keeps all but the tensors in its header
(keys "network", "config" and "metadata", the last two JSON), a `.pt` file is a dictionary {"network", "config",
"state_dict", "metadata"}. Without "network" it is a wide residual network.
Weights of 1-bit convolutions are float32 master weights, or int8 signs (-1, +1), or a uint8 vector of bits (1 for +1,
the first in the highest bit, in the order of the flattened tensor); the last two load as sign * scale.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bnhw.errors import BadInput
from bnhw.export.containers import MAX_CONTENT_BYTES
from bnhw.export.layers import BinaryConv2d, bipolar, he_standard_deviation
from bnhw.export.networks import DEFAULT_KIND, NETWORKS, NetworkConfig, build_network, config_of, kind_of
from bnhw.export.normalisation_layers import WeightNormConv2d
from bnhw.export.published import load_published
from bnhw.export.zoo import WideResNet
from bnhw.files import write_atomically
from bnhw.version import producer

FORMAT_VERSION = 1
MAX_LISTED_PROBLEMS = 50

_SIGN_TYPES = (torch.int8, torch.uint8)
_SAFETENSORS = (".safetensors",)
_TORCH = (".pt", ".pth")
_PUBLISHED = (".mat", ".npz")
_REMEDY = "write checkpoints with bnhw.export.checkpoints.save_checkpoint"


def save_checkpoint(
    model: nn.Module,
    path: str | Path,
    *,
    signs_only: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write `model` to a `.safetensors` or `.pt` file; an existing file is replaced at once or not at all.

    `signs_only` stores a 1-bit weight in one bit, enough to run but not to go on training. `metadata` holds JSON
    values. Raises `BadInput` for another suffix, an unwritable path, or a model whose class is not in
    `bnhw.export.networks.NETWORKS`.
    """
    path = Path(path)
    config = config_of(model)
    kind, fields = kind_of(config), config.to_json()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if signs_only:
        for name in _binary_weight_names(model):
            tensors[name] = torch.from_numpy(np.packbits(bipolar(tensors[name]).numpy() > 0))
    notes = {**(metadata or {}), "producer": producer()}
    if path.suffix in _SAFETENSORS:
        header = {
            "format_version": str(FORMAT_VERSION),
            "network": kind,
            "config": json.dumps(fields),
            "metadata": json.dumps(notes),
        }
        write_atomically(path, safetensors.torch.save(tensors, header))
    elif path.suffix in _TORCH:
        content = io.BytesIO()
        torch.save({"network": kind, "config": fields, "state_dict": tensors, "metadata": notes}, content)
        write_atomically(path, content.getvalue())
    else:
        raise BadInput(f"{path}: unknown suffix {path.suffix!r}; expected .safetensors or .pt")


def load_checkpoint(path: str | Path) -> nn.Module:
    """Read a network, in eval mode on the CPU, from `.safetensors`, `.pt`, `.pth`, `.mat` or `.npz`.

    The last two are the published files (`bnhw.export.published`). The configuration is `networks.config_of(network)`.
    Raises `BadInput` that lists every missing, unexpected or ill-formed tensor; a `.pt` file with anything but tensors
    and plain values is refused, and nothing in it is run.
    """
    path = Path(path)
    if path.suffix in _PUBLISHED:
        return load_published(path)
    kind, config_json, tensors, _ = _read(path)
    if kind not in NETWORKS:
        raise BadInput(f"{path}: holds a network of kind {kind!r}, expected one of {', '.join(NETWORKS)}; {_REMEDY}")
    try:
        config = NETWORKS[kind][0].from_json(config_json)
    except BadInput as error:
        raise BadInput(f"{path}: {error}; {_REMEDY}") from error
    return _fill(path, config, tensors)


def load_wide_resnet(path: str | Path) -> WideResNet:
    """`load_checkpoint` where a wide residual network is needed; raises `BadInput` for another kind."""
    network = load_checkpoint(path)
    if not isinstance(network, WideResNet):
        raise BadInput(f"{path}: holds a {type(network).__name__}, expected a wide residual network")
    return network


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a `.safetensors` or `.pt` checkpoint, with the key "producer". Raises `BadInput`."""
    return _read(Path(path))[3]


def _fill(path: Path, config: NetworkConfig, tensors: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        skeleton = build_network(config)
    problems = _tensor_problems(skeleton, tensors)
    if problems:
        hidden = len(problems) - MAX_LISTED_PROBLEMS
        listing = "".join(f"\n  - {problem}" for problem in problems[:MAX_LISTED_PROBLEMS])
        listing += f"\n  - and {hidden} more" if hidden > 0 else ""
        raise BadInput(f"{path}: the tensors do not fit the network of the file's configuration ({_REMEDY}):{listing}")
    with torch.random.fork_rng(devices=[]):  # the initial weights are replaced; leave the caller's numbers be
        model = build_network(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in _binary_weight_names(model):
        if tensors[name].dtype in _SIGN_TYPES:
            scale = tensors.get(name.removesuffix("weight") + "scale", he_standard_deviation(shapes[name]))
            tensors[name] = _signs(tensors[name], shapes[name]) * scale
    model.load_state_dict(tensors)
    return model.eval()


def _signs(stored: Tensor, shape: torch.Size) -> Tensor:
    """float32 signs of `shape` from int8 signs or from bits."""
    if stored.dtype == torch.int8:
        return stored.to(torch.float32)
    bits = np.unpackbits(stored.numpy(), count=shape.numel())
    return torch.from_numpy(bits).to(torch.float32).reshape(shape) * 2 - 1


def _tensor_problems(skeleton: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Every reason why `tensors` are not a state dictionary of `skeleton`."""
    expected = skeleton.state_dict()
    binary = set(_binary_weight_names(skeleton))
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is unknown to this network" for name in tensors if name not in expected]
    for name in expected.keys() & tensors.keys():
        found, wanted = tensors[name], expected[name]
        types = {wanted.dtype, torch.int8} if name in binary else {wanted.dtype}
        if name in binary and found.dtype == torch.uint8 and found.layout == torch.strided:
            count = -(-wanted.numel() // 8)
            if found.shape != (count,):
                problems.append(f"{name} is bits in uint8 {tuple(found.shape)}, expected {(count,)}")
            elif int(found[-1]) & ((1 << (8 * count - wanted.numel())) - 1):
                problems.append(f"{name} has bits behind the last of {wanted.numel()} weights, expected zeros")
        elif found.shape != wanted.shape or found.dtype not in types or found.layout != torch.strided:
            problems.append(
                f"{name} is {found.dtype} {tuple(found.shape)}, expected {wanted.dtype} {tuple(wanted.shape)}"
            )
        elif found.dtype == torch.int8 and not bool((found.abs() == 1).all()):
            problems.append(f"{name} holds int8 values other than -1 and +1")
        elif not bool(torch.isfinite(found).all()):
            problems.append(f"{name} holds NaN or infinity")
        elif name.endswith("scale") and bool((found <= 0).any()):
            problems.append(f"{name} holds values that are not above 0")
        elif name.endswith("running_var") and bool((found < 0).any()):  # 0 is that of a channel without any signal
            problems.append(f"{name} holds values below 0")
    return problems


def _binary_weight_names(model: nn.Module) -> list[str]:
    return [f"{name}.weight" for name, module in model.named_modules() if _has_binary_weights(module)]


def _has_binary_weights(module: nn.Module) -> bool:
    return isinstance(module, BinaryConv2d) or (isinstance(module, WeightNormConv2d) and module.binary)


def _read(path: Path) -> tuple[str, dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Kind of network, configuration, tensors and metadata; only their outer types are checked."""
    if path.suffix not in _SAFETENSORS + _TORCH:
        raise BadInput(
            f"{path}: unknown suffix {path.suffix!r}; expected one of {', '.join(_SAFETENSORS + _TORCH + _PUBLISHED)}"
        )
    if not path.is_file():
        raise BadInput(f"{path}: no such file; check the path")
    kind, config, tensors, metadata = _read_safetensors(path) if path.suffix in _SAFETENSORS else _read_torch(path)
    problems = [
        f"{name} is a {type(value).__name__}, expected a dictionary"
        for name, value in (("config", config), ("state_dict", tensors), ("metadata", metadata))
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value)
    ]
    if not problems:
        problems = [
            f"{key} is a {type(value).__name__}, expected a tensor"
            for key, value in tensors.items()
            if not isinstance(value, Tensor)
        ]
    if not isinstance(kind, str):
        problems.append(f"network is a {type(kind).__name__}, expected a string")
    if problems:
        raise BadInput(f"{path}: not a bnhw checkpoint: {'; '.join(problems)}; {_REMEDY}")
    return kind, config, dict(tensors), metadata


def _read_safetensors(path: Path) -> tuple[Any, Any, Any, Any]:
    try:
        # safetensors checks its header against the length of the file before it allocates.
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if "config" not in header:
                raise BadInput(f"{path}: has no network configuration in its header; {_REMEDY}")
            config, metadata = json.loads(header["config"]), json.loads(header.get("metadata", "{}"))
            kind = header.get("network", DEFAULT_KIND)
            return kind, config, {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise BadInput(f"{path}: damaged or not a safetensors file ({error}); fetch it again") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: the header's configuration is not JSON ({error}); {_REMEDY}") from error


def _read_torch(path: Path) -> tuple[Any, Any, Any, Any]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > max(MAX_CONTENT_BYTES, 2 * path.stat().st_size):
                raise BadInput(f"{path}: would unpack to {size} bytes from {path.stat().st_size}; refused")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except Exception as error:  # on a damaged file torch raises errors of many kinds
        raise BadInput(
            f"{path}: damaged, or holds Python objects other than tensors and plain values, which are not "
            f"loaded because loading them can run code; {_REMEDY} ({str(error).partition(chr(10))[0]})"
        ) from error
    if not isinstance(content, dict) or not {"config", "state_dict"} <= content.keys():
        found = sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__
        raise BadInput(f"{path}: holds {found}, expected a dictionary with 'config' and 'state_dict'; {_REMEDY}")
    kind = content.get("network", DEFAULT_KIND)
    return kind, content["config"], content["state_dict"], content.get("metadata", {})
