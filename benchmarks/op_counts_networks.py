"""The networks of the papers with random weights, compiled: what `op_counts.py` counts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bnhw.compiler import calibration_images
from bnhw.dtypes import Array
from bnhw.export.networks import NetworkConfig, build_network
from bnhw.export.normalisation_layers import STATISTICS_LAYERS
from bnhw.export.normalisations import Normalisation, ParameterRole, Weights, roles_of_parameters
from bnhw.export.paper_cases import Case
from bnhw.export.papers import list_systems
from bnhw.export.to_onnx import to_onnx
from bnhw.importer import import_onnx, read_onnx
from bnhw.lower import lower
from bnhw.options import CompileOptions, options_as_text
from bnhw.passes.pipeline import quantise_graph
from bnhw.program import Program, Provenance
from bnhw.program_check import check_program
from bnhw.version import producer

USUAL_INPUT: Mapping[int, str] = {1: "batch_norm_minus", 2: "fixed", 3: "batch_norm", 4: "fixed"}
"""How the batch-norm networks of each paper normalise the image, but where that is what a table compares."""

SPREAD = 0.5
"""Gains are multiplied by 1 - SPREAD to 1 + SPREAD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row: a network of a paper with one kind of weights. base: it has the plain batch norm of its paper."""

    paper: int
    network: str
    normalisation: str
    weights: Weights
    base: bool
    config: NetworkConfig

    @property
    def name(self) -> str:
        """What `--only` looks at."""
        return f"paper {self.paper}, {self.network}, {self.normalisation}, {self.weights}"

    @property
    def description(self) -> dict[str, Any]:
        """What a row says of its network."""
        return {
            "paper": self.paper,
            "network": self.network,
            "normalisation": self.normalisation,
            "weights": self.weights,
            "base": self.base,
        }


def list_jobs() -> tuple[Job, ...]:
    """Every network and normalisation of the papers once, with 1-bit weights and with float ones."""
    jobs: dict[str, Job] = {}
    for paper, case in list_systems():
        weights: Weights
        for weights in ("1bit", "float"):
            job = _job(paper, case, weights)
            jobs.setdefault(job.name, job)
            if paper == 1 and case.system.normalisation.kind is Normalisation.SHIFTED_RELU and weights == "1bit":
                powers: Any = replace(job.config, weight_scale="pow2", pool_divisor="pow2")  # type: ignore[type-var]
                job = replace(job, normalisation=f"{job.normalisation}, powers of two", config=powers)
                jobs.setdefault(job.name, job)
    return tuple(jobs.values())


def _job(paper: int, case: Case, weights: Weights) -> Job:
    system = replace(case.system, weights=weights)
    norm = system.normalisation
    side = case.side
    return Job(
        paper=paper,
        network=f"{system.network}" if side == 32 else f"{system.network}, {side}x{side}",
        normalisation=_normalisation_name(paper, case),
        weights=weights,
        base=norm.kind is Normalisation.BATCH_NORM and norm.input == USUAL_INPUT[paper],
        config=system.config(side=side, classes=_classes(case)),
    )


def _normalisation_name(paper: int, case: Case) -> str:
    """Paper 1 names its variations; the others are named by kind and normalisation of the image."""
    norm = case.system.normalisation
    if paper == 1:
        return case.row
    return ", ".join([norm.kind.value, *(["dropout"] if norm.dropout else []), f"image {norm.input}"])


def _classes(case: Case) -> int:
    return 10 if case.side == 32 else 1000


def random_network(config: NetworkConfig, images: Array) -> nn.Module:
    """A network with random weights, spread gains and shifts, and the statistics of one batch in its batch norms."""
    torch.manual_seed(0)
    network = build_network(config)
    roles = roles_of_parameters(network)
    with torch.no_grad():
        for name, values in network.named_parameters():
            if roles[name] is ParameterRole.GAIN:
                values.mul_(1 - SPREAD + 2 * SPREAD * torch.rand_like(values)).add_(0.05 * torch.randn_like(values))
            elif roles[name] is ParameterRole.SHIFT:
                values.add_(0.1 * torch.randn_like(values))
        for layer in network.modules():
            if isinstance(layer, STATISTICS_LAYERS):
                layer.momentum = 1.0
        network.train()(torch.tensor(images).permute(0, 3, 1, 2).float())
    return network.eval()


def random_images(config: NetworkConfig, count: int) -> Array:
    """uint8 (count, height, width, channels): a colour each, coarse patches, noise."""
    channels, height, width = config.input_shape
    generator = np.random.default_rng(0)
    coarse = generator.integers(-80, 81, (count, -(-height // 4), -(-width // 4), channels))
    coarse = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    colour = generator.integers(30, 226, (count, 1, 1, channels))
    return np.asarray(np.clip(colour + coarse + generator.integers(-20, 21, coarse.shape), 0, 255), np.uint8)


def build_program(job: Job, options: CompileOptions, images: int, path: Path) -> Program:
    """The compiled network; its ONNX file stands at `path` meanwhile. Nothing is executed: only counts are wanted."""
    pixels = random_images(job.config, images)
    try:
        to_onnx(random_network(job.config, pixels), path, input_shape=job.config.input_shape)
        source = read_onnx(path)
    finally:
        path.unlink(missing_ok=True)
    graph = import_onnx(source.model, name=job.name)
    quantised = quantise_graph(graph, options, calibration_images(graph, pixels))
    origin = Provenance(
        producer=producer(),
        source_name=job.name,
        source_sha256=source.sha256,
        options={**options_as_text(options), "calibration_images": str(images)},
    )
    program = lower(quantised, origin)
    check_program(program)
    return program
