"""Activations rounded to codes inside the training graph, by the rounding of the integer program.

A code is clamp(floor(x / scale + zero_point + 0.5), low, high), round half up, and stands for
scale * (code - zero_point). Scales are powers of two, so that float32 computes all of it exactly as long as x
itself is a multiple of a power of two (a sum of codes, say).
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

MAX_BITS = 24
"""Codes, and everything between two of them down to a half, are exact in float32 up to this width."""


class _FloorStraightThrough(torch.autograd.Function):
    """floor forwards, the identity backwards."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        """Return the floor of every element."""
        return torch.floor(value)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        """Return the incoming gradient unchanged."""
        return gradients[0]


class QuantisedActivation(nn.Module):
    """Codes of `bits` bits and back to real values; saturation is the activation function.

    floor 0: unsigned codes from 0, which is ReLU. floor -1: unsigned codes of which code 0 is -1, which is shifted ReLU
    (arXiv 1907.06916, equation 5): zero_point = 1 / scale. floor None: signed codes, zero point 0.
    The gradient passes unchanged where x lies between the smallest and the largest code's value, and is 0 elsewhere.
    `scale` is a float32 buffer of shape (), a power of two that a checkpoint carries; `fit` chooses it.
    """

    scale: Tensor

    def __init__(self, bits: int, *, floor: float | None) -> None:
        super().__init__()
        if not 2 <= bits <= MAX_BITS:
            raise ValueError(f"bits is {bits}; expected 2 to {MAX_BITS}")
        if floor not in (0.0, -1.0, None):
            raise ValueError(f"floor is {floor}; expected 0 (ReLU), -1 (shifted ReLU) or None (signed codes)")
        self.bits = bits
        self.floor = floor
        # the range is about -1..3, 0..4 or -4..4 until statistics are seen
        self.register_buffer("scale", torch.tensor(2.0 ** ((3 if floor is None else 2) - bits)))

    @property
    def zero_point(self) -> int:
        """The code of 0."""
        return round(1 / float(self.scale)) if self.floor == -1 else 0

    @property
    def code_range(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        half = 1 << (self.bits - 1)
        return (-half, half - 1) if self.floor is None else (0, 2 * half - 1)

    def set_scale(self, scale: float) -> None:
        """Set the scale; raises ValueError where it is no power of two, or leaves 0 (or the floor) without a code."""
        low, high = self.code_range
        mantissa = math.frexp(scale)[0] if scale > 0 and math.isfinite(scale) else 0.0
        if mantissa != 0.5 or (self.floor == -1 and not 1 / scale == round(1 / scale) <= high):
            wish = f"a power of two from 1/{(high + 1) // 2} to 1" if self.floor == -1 else "a power of two"
            raise ValueError(f"scale is {scale} for codes {low}..{high}; expected {wish}")
        self.scale.fill_(scale)

    def fit(self, values: Tensor) -> None:
        """Choose the scale whose mean squared error on `values`, counted above the floor, is the least.

        A quantiser that sees nothing but its floor and 0 keeps its scale.
        """
        wanted = values.detach() if self.floor is None else values.detach().clamp(min=self.floor)
        largest = float(wanted.abs().max())
        if largest == 0:
            return
        errors = {scale: _squared_error(self, wanted, scale) for scale in self._candidates(largest)}
        self.set_scale(min(errors, key=lambda scale: (errors[scale], -scale)))

    def _candidates(self, largest: float) -> list[float]:
        """Powers of two from the scale at which nothing saturates down to a range 16 times as small."""
        high = self.code_range[1]
        if self.floor == -1:
            return [2.0**-exponent for exponent in range(self.bits)]
        top = math.ceil(math.log2(largest / high))
        return [2.0 ** (top - exponent) for exponent in range(5)]

    def materialise(self) -> "FixedQuantiser":
        """The same function with its constants written out, for export."""
        return FixedQuantiser(float(self.scale), self.zero_point, self.code_range).train(self.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Round every element; the shape stays."""
        zero_point = 1 / self.scale if self.floor == -1 else torch.zeros_like(self.scale)
        raised = input / self.scale + (zero_point + 0.5)
        codes = torch.clamp(cast(Tensor, _FloorStraightThrough.apply(raised)), *self.code_range)  # type: ignore[no-untyped-call]  # torch's own
        return (codes - zero_point) * self.scale


class FixedQuantiser(nn.Module):
    """`QuantisedActivation` as standard operations on plain constants; not for training."""

    def __init__(self, scale: float, zero_point: int, code_range: tuple[int, int]) -> None:
        super().__init__()
        self.scale, self.zero_point, self.code_range = scale, zero_point, code_range

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Round every element; the shape stays."""
        codes = torch.clamp(torch.floor(input / self.scale + (self.zero_point + 0.5)), *self.code_range)
        return (codes - self.zero_point) * self.scale if self.zero_point else codes * self.scale


def _squared_error(quantiser: QuantisedActivation, values: Tensor, scale: float) -> float:
    zero_point = round(1 / scale) if quantiser.floor == -1 else 0
    rounded = FixedQuantiser(scale, zero_point, quantiser.code_range)(values)
    return float(((rounded - values).double() ** 2).mean())


def calibrate_quantisers(model: nn.Module, images: Tensor) -> None:
    """Fit the scale of every `QuantisedActivation` of `model` to what it reads on `images`, float32 (N, C, H, W).

    One forward pass in the mode in which `model` is: each quantiser sees what the ones before it have rounded.
    """

    def fit(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, QuantisedActivation)
        module.fit(inputs[0])

    hooks = [
        module.register_forward_pre_hook(fit) for module in model.modules() if isinstance(module, QuantisedActivation)
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
