"""The order of the passes, with the reason for each place."""

from collections.abc import Callable

import numpy as np

from bnhw.dtypes import Array
from bnhw.graph import Graph, Node, rename_inputs, unique_name
from bnhw.ops import Affine, freeze
from bnhw.options import CompileOptions, RequantiseMode
from bnhw.passes.absorb import AbsorbFlatten, AbsorbZeroPads
from bnhw.passes.base import Pass, run_passes
from bnhw.passes.calibrate import calibrate
from bnhw.passes.fold import FoldConstants
from bnhw.passes.place import PlaceQuantisePoints
from bnhw.passes.quantisers import RecogniseQuantisers
from bnhw.passes.scales import ChooseScales
from bnhw.passes.weight_scales import ExtractWeightScales


def float_passes(options: CompileOptions) -> tuple[Pass, ...]:
    """Everything that needs no images; `bnhw check` runs just this."""
    thresholds = options.requantisation.mode is RequantiseMode.THRESHOLD
    return (
        # before any constant moves: a quantiser is a pattern of them
        RecogniseQuantisers(),
        AbsorbZeroPads(),  # before the rest: a pad in front of a convolution hides it from every later pattern
        AbsorbFlatten(),  # before the weights change type: a dense layer becomes an image-sized kernel
        ExtractWeightScales(weight_bits=options.weight_bits),  # makes the scales that the next pass folds
        FoldConstants(),  # before the points: what is folded needs no codes
        PlaceQuantisePoints(thresholds=thresholds),  # last: no constant may move after it
    )


def quantise_graph(
    graph: Graph, options: CompileOptions, images: Array, progress: Callable[[int], None] | None = None
) -> Graph:
    """Run every pass; `images` are float32 (images, channels, height, width) as the graph takes them.

    Returns the graph in which every value that integers hold stands behind a Quantise or is exact.
    """
    placed = run_passes(graph, float_passes(options))
    calibration = calibrate(placed, images, progress)
    return run_passes(placed, (ChooseScales(calibration=calibration, options=options),))


def normalise_input(graph: Graph, options: CompileOptions) -> Graph:
    """The graph with (pixel - mean) / std in front, so that it takes raw pixels.

    Raises ValueError when the options give neither one number nor one a colour.
    """
    (entry,) = graph.inputs
    channels = entry.shape[0]
    for name, numbers in (("input_mean", options.input_mean), ("input_std", options.input_std)):
        if len(numbers) not in (1, channels):
            raise ValueError(f"{name} has {len(numbers)} numbers for {channels} colours")
    mean = np.broadcast_to(np.asarray(options.input_mean, np.float64), (channels,))
    std = np.broadcast_to(np.asarray(options.input_std, np.float64), (channels,))
    if not mean.any() and (std == 1).all():
        return graph
    name = unique_name("input_normalisation", (node.output for node in graph.nodes))
    node = Node(
        name=name,
        inputs=(entry.name,),
        output=name,
        attributes=Affine(scale=freeze(1 / std), shift=freeze(-mean / std)),
    )
    return graph.with_nodes([node, *rename_inputs(graph.nodes, {entry.name: name})])
