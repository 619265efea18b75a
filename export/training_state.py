"""The state of a training in one safetensors file, so that a killed training continues from its last epoch.

Tensors "model.NAME" are the network's, "optimiser.INDEX.KEY" those that the optimiser keeps for its parameter of that
index, and "best.NAME" the network of the best epoch so far, where the recipe chooses one. The header's "training" is
JSON: format version, the settings that the file belongs to, and the records of the epochs done. No generator state is
stored: every epoch seeds its generators itself (`bnhw.export.recipes.spread_seed`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bnhw.errors import BadInput
from bnhw.export.training_log import EpochRecord
from bnhw.files import write_atomically

FORMAT_VERSION = 1
_REMEDY = "remove the file to train from the start"

Tensors = dict[str, Tensor]


def save_state(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    best: Mapping[str, Tensor] | None,
    records: Sequence[EpochRecord],
    settings: Mapping[str, str],
) -> None:
    """Replace the file at once or not at all. Raises `BadInput` where it cannot be written."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in (best or {}).items()}
    for index, kept in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in kept.items() if isinstance(value, Tensor)}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "format_version": FORMAT_VERSION,
        "settings": dict(settings),
        "records": [asdict(record) for record in records],
    }
    write_atomically(path, safetensors.torch.save(stored, {"training": json.dumps(header)}))


def load_state(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, settings: Mapping[str, str]
) -> tuple[Tensors | None, list[EpochRecord]]:
    """Put what `save_state` wrote into `model` and `optimiser`; returns the best network and the records.

    Raises `BadInput` where the file is damaged or belongs to another training; then nothing was changed.
    """
    header, tensors = _read(path)
    _compare_settings(path, header["settings"], settings)
    try:
        records = [EpochRecord(**record) for record in header["records"]]
        expected = model.state_dict()
        for prefix in ("model.", "best."):
            found = _under(tensors, prefix)
            if (found or prefix == "model.") and {k: _form(v) for k, v in found.items()} != {
                k: _form(v) for k, v in expected.items()
            }:
                raise ValueError(f"the tensors {prefix}* are not those of the network")
        kept = _optimiser_state(tensors, [p for group in optimiser.param_groups for p in group["params"]])
    except (TypeError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: not a training state of this network ({error}); {_REMEDY}") from error
    model.load_state_dict(_under(tensors, "model."))
    optimiser.load_state_dict({"state": kept, "param_groups": optimiser.state_dict()["param_groups"]})
    return _under(tensors, "best.") or None, records


def _read(path: Path) -> tuple[dict[str, Any], Tensors]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        if not isinstance(header, dict) or header.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"format version {FORMAT_VERSION} is expected")
        if not isinstance(header.get("settings"), dict) or not isinstance(header.get("records"), list):
            raise ValueError("settings or records are missing")
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: damaged or not a training state ({error}); {_REMEDY}") from error
    return header, tensors


def _compare_settings(path: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    differences = [
        f"{key}: {found.get(key)} in the file, {wanted.get(key)} asked for"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        listing = "".join(f"\n  - {difference}" for difference in differences)
        raise BadInput(
            f"{path}: the training that was interrupted had other settings; repeat them, or {_REMEDY}:{listing}"
        )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _form(tensor: Tensor) -> tuple[object, object]:
    return tensor.dtype, tuple(tensor.shape)


def _optimiser_state(tensors: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[int, Tensors]:
    kept: dict[int, Tensors] = {}
    for name, tensor in _under(tensors, "optimiser.").items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)] if int(index) < len(parameters) else None
        if parameter is None or (tensor.dim() and tensor.shape != parameter.shape):
            raise ValueError(f"optimiser.{name} does not fit the network")
        kept.setdefault(int(index), {})[key] = tensor
    return kept
