"""Reader for the 1-bit-per-weight wide residual networks that McDonnell published as `.mat` files.

Source of the files: github McDonnell-Lab/1-bit-per-weight, directory TrainedModels. Both layouts hold the
sign of every weight as one logical value (1 is +, 0 is -) with the axes (height, width, in, out):

- Keras: variables `conv2d`, `conv2d_1`, ... of shape (1, height, width, in, out), and one batch norm more,
  `batch_normalization_v1_<k>` with consecutive k; the rows are (mean, variance), or (gain, shift, mean,
  variance) where gain and shift were learned. Padding is TensorFlow's "SAME".
- MATLAB: cells `BinaryWeights` (height, width, in, out), `Moments` (channels, 2) with mean and standard
  deviation (epsilon already inside), `BNG` gain, `BNB` shift, arrays `LayerWeights` (one multiplier for each
  convolution), `Stride`, `Padding`, and cell `LayerTypes` with the order of the layers.

The `.npz` re-encoding of these files with documented keys is read too.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bnhw.errors import BadInput
from bnhw.export.containers import read_mat, read_npz
from bnhw.export.layers import BinaryConv2d, Padding, he_standard_deviation
from bnhw.export.zoo import MAX_DEPTH, WideResNet, WideResNetConfig

# tf.keras.layers.BatchNormalization was given this epsilon in the published training code; the files lack it.
KERAS_BATCH_NORM_EPSILON = 1e-5
BASE_WIDTH = 16
# The files lack the size of the images; these networks are for CIFAR-10 and CIFAR-100.
IMAGE_SIZE = (32, 32)

_NPZ_PADDING: dict[str, Padding] = {"tf_same": "tf_same", "symmetric1": "symmetric"}

_Floats = npt.NDArray[np.float32]
_Variables = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BatchNorm:
    """y = gain (x - mean) / sqrt(variance + epsilon) + shift; arrays of shape (channels,)."""

    gain: _Floats
    shift: _Floats
    mean: _Floats
    variance: _Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """What any of the layouts says: `signs` are 1 for + and 0 for -, axes (out, in, height, width)."""

    signs: tuple[npt.NDArray[np.uint8], ...]
    scales: _Floats
    batch_norms: tuple[_BatchNorm, ...]
    strides: tuple[int, ...]
    epsilon: float
    padding: Padding
    input_relu: bool


def load_published(path: str | Path) -> WideResNet:
    """Read a published `.mat` file, or its `.npz` re-encoding, into a network in eval mode.

    The network takes raw RGB pixels (N, 3, H, W), float32 values 0 to 255. Weights become scale * sign.
    Raises `BadInput` where the file is unreadable, too large, truncated, of another layout (MATLAB 7.3 files
    are HDF5), or does not describe a wide residual network; `MissingDependency` without scipy.
    """
    path = Path(path)
    variables = read_npz(path) if path.suffix == ".npz" else read_mat(path)
    try:
        if "BinaryWeights" in variables:
            published = _from_matlab(variables)
        elif "n_conv" in variables:
            published = _from_npz(variables)
        elif "conv2d" in variables:
            published = _from_keras(variables)
        else:
            raise _LayoutError(
                f"found the variables {_shortened(sorted(variables))}, "
                "expected `conv2d`, `conv2d_1`, ... (Keras), `BinaryWeights` (MATLAB) or `n_conv` (.npz)"
            )
        return _build(published)
    except (_LayoutError, BadInput) as error:
        raise BadInput(
            f"{path}: not a published 1-bit wide residual network: {error}. The files that can be read are "
            "CIFAR10_allparams.mat, TrainedWideResNet20-10_CIFAR10_1-bit-per-weight-4MB.mat and files laid "
            "out like them"
        ) from error


class _LayoutError(Exception):
    """A variable is missing or is not what the layout says."""


def _build(published: _Published) -> WideResNet:
    """Check every shape against the network that they imply, then fill it."""
    shapes = [signs.shape for signs in published.signs]
    stem, classes = shapes[0], shapes[-1][0]
    width, rest = divmod(stem[0], BASE_WIDTH)
    first, last = published.batch_norms[0], published.batch_norms[1:]
    config = WideResNetConfig(
        depth=len(shapes),
        width=stem[0] if rest else width,
        base_width=1 if rest else BASE_WIDTH,
        classes=classes,
        input_channels=stem[1],
        image_size=IMAGE_SIZE,
        normalisation="batch_norm",
        batch_norm_affine=any(_is_learned(norm) for norm in last),
        input_batch_norm_affine=_is_learned(first),
        batch_norm_epsilon=published.epsilon,
        weights="1bit",
        padding=published.padding,
        input_relu=published.input_relu,
        input_mean=(0.0,) * stem[1],
        input_std=(1.0,) * stem[1],
    )
    with torch.device("meta"):
        skeleton = WideResNet(config)
    problems = _shape_problems(skeleton, published)
    if problems:
        raise _LayoutError("; ".join(problems))
    model = skeleton.to_empty(device="cpu")
    with torch.no_grad():
        for layer, signs, scale in zip(model.convolutions(), published.signs, published.scales, strict=True):
            layer.weight.copy_(torch.from_numpy(np.where(signs == 1, scale, -scale).astype(np.float32)))
            assert isinstance(layer, BinaryConv2d)
            layer.scale.fill_(float(scale))
        for norm, values in zip(model.batch_norms(), published.batch_norms, strict=True):
            _fill_batch_norm(norm, values)
    return model.eval()


def _fill_batch_norm(norm: torch.nn.BatchNorm2d, values: _BatchNorm) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean.copy_(torch.from_numpy(values.mean.copy()))
    norm.running_var.copy_(torch.from_numpy(values.variance.copy()))
    norm.num_batches_tracked.zero_()
    if norm.affine:
        norm.weight.copy_(torch.from_numpy(values.gain.copy()))
        norm.bias.copy_(torch.from_numpy(values.shift.copy()))


def _is_learned(norm: _BatchNorm) -> bool:
    return bool(np.any(norm.gain != 1) or np.any(norm.shift != 0))


def _shape_problems(skeleton: WideResNet, published: _Published) -> list[str]:
    """Everything in which `published` differs from the network with its depth, width and classes."""
    problems = []
    for index, (layer, signs) in enumerate(zip(skeleton.convolutions(), published.signs, strict=True)):
        if tuple(layer.weight.shape) != signs.shape:
            problems.append(
                f"convolution {index} has (out, in, height, width) {signs.shape}, expected {tuple(layer.weight.shape)}"
            )
        elif signs.max() > 1:
            problems.append(f"convolution {index} holds the value {signs.max()}, expected only 0 and 1")
        if published.strides[index] != layer.stride[0]:
            problems.append(f"convolution {index} has stride {published.strides[index]}, expected {layer.stride[0]}")
    for index, (norm, values) in enumerate(zip(skeleton.batch_norms(), published.batch_norms, strict=True)):
        arrays = (values.gain, values.shift, values.mean, values.variance)
        shapes = {array.shape for array in arrays}
        if shapes != {(norm.num_features,)}:
            problems.append(f"batch norm {index} has {sorted(shapes)}, expected {norm.num_features} channels")
        elif not all(np.isfinite(array).all() for array in arrays) or values.variance.min() <= 0:
            problems.append(f"batch norm {index} has a variance that is not above 0 or a non-finite value")
    if not (np.isfinite(published.scales).all() and (published.scales > 0).all()):
        problems.append(f"layer multipliers are {published.scales.tolist()}, expected numbers above 0")
    return problems


def _from_keras(variables: _Variables) -> _Published:
    convolutions = _numbered(variables, r"conv2d(?:_(\d{1,6}))?")
    norms = _numbered(variables, r"batch_normalization(?:_v1)?(?:_(\d{1,6}))?")
    _expect_counts(len(convolutions), len(norms))
    signs = []
    for name in convolutions:
        array = _array(variables, name, dimensions=5)
        if array.shape[0] != 1:
            raise _LayoutError(f"{name} has shape {array.shape}, expected (1, height, width, in, out)")
        signs.append(_to_oihw(array[0], name))
    shapes = [array.shape for array in signs]
    return _Published(
        signs=tuple(signs),
        scales=np.array([he_standard_deviation(shape) for shape in shapes], dtype=np.float32),
        batch_norms=tuple(_keras_batch_norm(_array(variables, name, dimensions=2), name) for name in norms),
        strides=_expected_strides(shapes),
        epsilon=KERAS_BATCH_NORM_EPSILON,
        padding="tf_same",
        input_relu=False,
    )


def _keras_batch_norm(rows: npt.NDArray[Any], name: str) -> _BatchNorm:
    rows = rows.astype(np.float32)
    if rows.shape[0] == 4:
        gain, shift, mean, variance = rows
    elif rows.shape[0] == 2:
        mean, variance = rows
        gain, shift = np.ones_like(mean), np.zeros_like(mean)
    else:
        raise _LayoutError(
            f"{name} has {rows.shape[0]} rows, expected 2 (mean, variance) or 4 (gain, shift, mean, variance)"
        )
    return _BatchNorm(gain=gain, shift=shift, mean=mean, variance=variance)


def _expected_strides(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Keras files lack the strides; the published code halves the image where the channels double."""
    return tuple(
        2 if 0 < index < len(shapes) - 1 and shape[0] == 2 * shape[1] else 1 for index, shape in enumerate(shapes)
    )


def _from_matlab(variables: _Variables) -> _Published:
    bits = _cells(variables, "BinaryWeights", dimensions=4)
    moments = _cells(variables, "Moments", dimensions=2)
    gains = _cells(variables, "BNG", dimensions=2)
    shifts = _cells(variables, "BNB", dimensions=2)
    _expect_counts(len(bits), len(moments))
    _check_matlab_layers(variables, len(bits))
    if not len(gains) == len(shifts) == len(moments):
        raise _LayoutError(f"found {len(gains)} BNG, {len(shifts)} BNB and {len(moments)} Moments, expected as many")
    wrong = [str(array.shape) for array in moments if array.shape[1] != 2]
    if wrong:
        raise _LayoutError(f"Moments has cells of shape {', '.join(wrong)}, expected (channels, 2)")
    vectors = {name: _array(variables, name, dimensions=2).ravel() for name in ("LayerWeights", "Stride", "Padding")}
    for name, vector in vectors.items():
        if len(vector) != len(bits):
            raise _LayoutError(f"{name} has {len(vector)} values, expected {len(bits)}")
    if not np.array_equal(vectors["Padding"], [1] * (len(bits) - 1) + [0]):
        raise _LayoutError(f"Padding is {vectors['Padding'].tolist()}, expected 1 for all but the last convolution")
    return _Published(
        signs=tuple(_to_oihw(array, f"BinaryWeights {index}") for index, array in enumerate(bits)),
        scales=vectors["LayerWeights"].astype(np.float32),
        batch_norms=tuple(
            _BatchNorm(
                gain=gain.ravel().astype(np.float32),
                shift=shift.ravel().astype(np.float32),
                mean=moment[:, 0].astype(np.float32),
                variance=np.square(moment[:, 1].astype(np.float32)),
            )
            for gain, shift, moment in zip(gains, shifts, moments, strict=True)
        ),
        strides=tuple(int(stride) for stride in vectors["Stride"]),
        epsilon=0.0,
        padding="symmetric",
        input_relu=True,
    )


def _check_matlab_layers(variables: _Variables, convolutions: int) -> None:
    """Refuse any other order of layers than that of a wide residual network.

    "brw" is batch norm, ReLU, weights; "Residual_sum" opens a unit (the first one only keeps the stem's
    output); "brg" is the last batch norm and the global average pooling, without a ReLU in spite of its name.
    """
    units = ["Residual_sum", "brw", "brw"] * ((convolutions - 2) // 2)
    expected = ["input", "brw", *units, "Residual_sum", "brw", "brg"]
    cells = _variable(variables, "LayerTypes").ravel()
    layers = [str(np.ravel(cell)[0]) if np.size(cell) == 1 else "?" for cell in cells]
    if layers != expected:
        raise _LayoutError(
            f"LayerTypes has {len(layers)} layers {_shortened(layers)}, expected the {len(expected)} of a "
            f"wide residual network with {convolutions} convolutions, {_shortened(expected)}"
        )


def _from_npz(variables: _Variables) -> _Published:
    count = int(_array(variables, "n_conv", dimensions=0))
    if not 1 <= count <= MAX_DEPTH:
        raise _LayoutError(f"n_conv is {count}, expected 1 to {MAX_DEPTH}")
    if int(_array(variables, "residual", dimensions=0)) != 1:
        raise _LayoutError("residual is 0: a plain network without skips, which is not supported")
    padding_name = str(_variable(variables, "pad_mode"))
    if padding_name not in _NPZ_PADDING:
        raise _LayoutError(f"pad_mode is {padding_name!r}, expected one of {', '.join(_NPZ_PADDING)}")
    scales = _array(variables, "layer_scale", dimensions=1).astype(np.float32)
    strides = tuple(int(stride) for stride in _array(variables, "stride", dimensions=1))
    if not len(scales) == len(strides) == count:
        raise _LayoutError(f"found {len(scales)} layer_scale and {len(strides)} stride, expected {count}")
    return _Published(
        signs=tuple(_npz_signs(variables, f"w{index:02d}") for index in range(count)),
        scales=scales,
        batch_norms=tuple(_npz_batch_norm(variables, f"bn{index:02d}") for index in range(count + 1)),
        strides=strides,
        epsilon=float(_array(variables, "eps", dimensions=0)),
        padding=_NPZ_PADDING[padding_name],
        input_relu=bool(_array(variables, "input_relu", dimensions=0)),
    )


def _npz_signs(variables: _Variables, name: str) -> npt.NDArray[np.uint8]:
    shape = tuple(int(size) for size in _array(variables, f"{name}_shape", dimensions=1))
    packed = _array(variables, f"{name}_bits", dimensions=1)
    count = math.prod(shape)
    if len(shape) != 4 or min(shape) < 1 or packed.dtype != np.uint8 or len(packed) != -(-count // 8):
        raise _LayoutError(f"{name}_bits has {len(packed)} bytes of {packed.dtype}, {name}_shape is {shape}")
    return np.unpackbits(packed, count=count).reshape(shape)


def _npz_batch_norm(variables: _Variables, name: str) -> _BatchNorm:
    gain, shift, mean = (
        _array(variables, f"{name}_{part}", dimensions=1).astype(np.float32) for part in ("gamma", "beta", "mean")
    )
    if f"{name}_var" in variables:
        variance = _array(variables, f"{name}_var", dimensions=1).astype(np.float32)
    else:
        variance = np.square(_array(variables, f"{name}_sigma", dimensions=1).astype(np.float32))
    return _BatchNorm(gain=gain, shift=shift, mean=mean, variance=variance)


def _numbered(variables: _Variables, pattern: str) -> list[str]:
    """Names that match `pattern`, by their number; the number must run without a gap."""
    found = {int(m[1] or 0): name for name in variables if (m := re.fullmatch(pattern, name))}
    numbers = sorted(found)
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise _LayoutError(f"the numbers of {found[numbers[0]]}, ... have gaps: {_shortened(numbers)}")
    return [found[number] for number in numbers]


def _expect_counts(convolutions: int, batch_norms: int) -> None:
    if convolutions < 8 or batch_norms != convolutions + 1:
        raise _LayoutError(
            f"found {convolutions} convolutions and {batch_norms} batch norms, "
            "expected at least 8 convolutions and one batch norm more than convolutions"
        )


def _variable(variables: _Variables, name: str) -> npt.NDArray[Any]:
    if name not in variables:
        raise _LayoutError(f"variable {name} is missing; found {_shortened(sorted(variables))}")
    return variables[name]


def _array(variables: _Variables, name: str, *, dimensions: int) -> npt.NDArray[Any]:
    return _numbers(_variable(variables, name), name, dimensions)


def _cells(variables: _Variables, name: str, *, dimensions: int) -> list[npt.NDArray[Any]]:
    cells = _variable(variables, name)
    if cells.dtype != np.object_:
        raise _LayoutError(f"{name} has type {cells.dtype}, expected a cell array")
    return [_numbers(cell, f"{name} {i}", dimensions) for i, cell in enumerate(cells.ravel())]


def _numbers(value: object, name: str, dimensions: int) -> npt.NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "buif" or array.ndim != dimensions or 0 in array.shape:
        raise _LayoutError(
            f"{name} has type {array.dtype} and shape {array.shape}, expected numbers in {dimensions} dimensions"
        )
    return array


def _to_oihw(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """From (height, width, in, out) to (out, in, height, width)."""
    if array.dtype not in (np.uint8, np.bool_):
        raise _LayoutError(f"{name} has type {array.dtype}, expected logical values")
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1)).astype(np.uint8)


def _shortened(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:8])
    return f"[{shown}, ...]" if len(items) > 8 else f"[{shown}]"
