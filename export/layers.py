"""Layers of the networks of McDonnell et al., "Single-bit-per-weight deep convolutional neural networks
without batch-normalization layers for embedded systems" (arXiv 1907.06916), called "paper 1" below.

Every image tensor is float32 in NCHW order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Padding = Literal["symmetric", "tf_same"]
PoolDivisor = Literal["pixels", "pow2"]


class _SignStraightThrough(torch.autograd.Function):
    """sign with sign(0) = +1 forwards, the identity backwards."""

    @staticmethod
    def forward(ctx: object, weight: Tensor) -> Tensor:
        """Return +1 where `weight` >= 0 (negative zero too), -1 elsewhere."""
        return bipolar(weight)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        """Return the incoming gradient unchanged."""
        return gradients[0]


def bipolar(weight: Tensor) -> Tensor:
    """Sign of every element as -1 or +1 in the type of `weight`, with sign(0) = +1. Not differentiable."""
    one = torch.ones((), dtype=weight.dtype, device=weight.device)
    return torch.where(weight >= 0, one, -one)


def sign_straight_through(weight: Tensor) -> Tensor:
    """`bipolar(weight)` whose gradient is passed through unchanged (paper 1, section III-B and figure 3)."""
    return cast(Tensor, _SignStraightThrough.apply(weight))  # type: ignore[no-untyped-call]  # torch's own


def he_standard_deviation(weight_shape: Sequence[int]) -> float:
    """Initial standard deviation of the weights, sqrt(2 / fan in), that scales the signs (paper 1, figure 3).

    `weight_shape` is (out, in / groups, kernel height, kernel width), so the fan in counts the weights of one
    output channel.
    """
    return math.sqrt(2.0 / math.prod(weight_shape[1:]))


def nearest_power_of_two(weight_shape: Sequence[int]) -> float:
    """The power of two nearest, in ratio, to `he_standard_deviation`: in integers a scale that needs only wires."""
    return 2.0 ** round(math.log2(he_standard_deviation(weight_shape)))


WEIGHT_SCALES: dict[str, Callable[[Sequence[int]], float]] = {
    "he": he_standard_deviation,
    "pow2": nearest_power_of_two,
}


class Conv2d(nn.Conv2d):
    """Convolution without bias: the float32 form, and the base of the 1-bit form.

    `padding` "symmetric" puts kernel // 2 zero pixels on every side, "tf_same" as many as TensorFlow does
    (`zero_padding`). Weights are drawn from a normal distribution of the standard deviation of He et al.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: Padding = "symmetric",
    ) -> None:
        halo = kernel_size // 2
        super().__init__(in_channels, out_channels, kernel_size, stride, halo, groups=groups, bias=False)
        self.padding_rule = padding

    def reset_parameters(self) -> None:
        """Draw the weights anew from N(0, 2 / fan in)."""
        nn.init.normal_(self.weight, std=he_standard_deviation(self.weight.shape))

    def plain_form(self) -> "Conv2d":
        """A plain convolution of the same geometry, without memory for its weights: they are to be replaced."""
        with torch.device("meta"):  # no random numbers are drawn
            return Conv2d(
                self.in_channels,
                self.out_channels,
                self.kernel_size[0],
                stride=self.stride[0],
                groups=self.groups,
                padding=self.padding_rule,
            )

    def effective_weight(self) -> Tensor:
        """The weights that the convolution multiplies by, shape (out, in / groups, height, width)."""
        return self.weight

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Conv2d
        """Convolve (N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride)) for odd kernels."""
        (top, bottom), (left, right) = (
            zero_padding(size, kernel=kernel, stride=stride, padding=self.padding_rule)
            for size, kernel, stride in zip(input.shape[-2:], self.kernel_size, self.stride, strict=True)
        )
        halo = (top, left)
        if halo != (bottom, right):  # the convolution itself can only pad both sides alike
            halo = (0, 0)
            input = functional.pad(input, (left, right, top, bottom))  # noqa: A001
        return functional.conv2d(input, self.effective_weight(), self.bias, self.stride, halo, groups=self.groups)


class BinaryConv2d(Conv2d):
    """Convolution with 1-bit weights, `scale * sign(weight)`, trained through float32 master weights.

    The gradient of the sign is the identity. `scale` is a constant, fixed at construction, held as a float32
    buffer of shape () so that a checkpoint carries it; with `weight_scale="he"` it is the standard deviation
    of the initial weights (paper 1, section III-B and figure 3), with "pow2" the power of two nearest to it.
    """

    scale: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: Padding = "symmetric",
        weight_scale: str = "he",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups, padding=padding)
        if weight_scale not in WEIGHT_SCALES:
            raise ValueError(f"weight_scale is {weight_scale!r}; expected one of {', '.join(WEIGHT_SCALES)}")
        self.register_buffer("scale", torch.tensor(WEIGHT_SCALES[weight_scale](self.weight.shape)))

    def effective_weight(self) -> Tensor:
        """`scale * sign(weight)`: two values, -scale and +scale."""
        return sign_straight_through(self.weight) * self.scale

    def materialise(self) -> Conv2d:
        """The same convolution in float32 form; its weights are `effective_weight()`."""
        layer = self.plain_form()
        layer.weight = nn.Parameter(self.effective_weight().detach().clone(), self.weight.requires_grad)
        return layer.train(self.training)


class ShiftedReLU(nn.Module):
    """max(-1, x) (paper 1, equation 5)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Apply to every element; the shape stays."""
        return torch.clamp(input, min=-1.0)


class Temperature(nn.Module):
    """Division of the logits by a constant before the softmax (paper 1, equation 6)."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature is {temperature}; expected a finite number above 0")
        self.temperature = temperature

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Divide every element; the shape stays."""
        return input / self.temperature


class InputNormalisation(nn.Module):
    """Fixed (pixel - mean) / std of every colour, on raw pixel values 0 to 255 (paper 1, figure 4).

    `mean` and `std` are float32 buffers of shape (channels, 1, 1); they are never learned, and belong to the
    configuration of a network, not to its state dictionary.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(math.isfinite(s) and s > 0 for s in std):
            raise ValueError(f"mean {mean} and std {std} must have equal lengths and std be above 0")
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Normalise (N, channels, H, W); the shape stays."""
        return (input - self.mean) / self.std


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32).reshape(-1, 1, 1)


def zero_padding(size: int, *, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Zero pixels (before, after) one axis of `size` pixels.

    "symmetric" is kernel // 2 on both sides. "tf_same" is TensorFlow's rule for ceil(size / stride) outputs:
    where the total is odd the extra pixel comes after. For kernel 3, stride 2 an even size gets (0, 1), so
    that the window of output k covers 2k to 2k + 2, and an odd size gets (1, 1).
    """
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class AveragePool3x3(nn.Module):
    """3 x 3 average pooling with stride 2.

    `divisor` "pixels" divides by the number of pixels really inside the image (9, 6 or 4), "pow2" by 8 everywhere: a
    sum of 9 pixels, or fewer at the border, and a shift. The windows stand where those of a 3 x 3 convolution with
    stride 2 and the same `padding` stand; output (N, C, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, *, padding: Padding = "symmetric", divisor: PoolDivisor = "pixels") -> None:
        super().__init__()
        self.padding_rule = padding
        self.divisor = divisor

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Pool (N, C, H, W)."""
        (top, bottom), (left, right) = (
            zero_padding(size, kernel=3, stride=2, padding=self.padding_rule) for size in input.shape[-2:]
        )
        if self.divisor == "pow2":
            padded = functional.pad(input, (left, right, top, bottom))
            # A correctly rounded division by 9 = 2^3 + 2^0 is undone exactly by the multiplication with 9 (Goldberg,
            # "What every computer scientist should know about floating-point arithmetic", 1991, theorem 7).
            return functional.avg_pool2d(padded, 3, 2) * (9 / 8)
        # Under "tf_same" the last window may hang over the far edge: ceil_mode keeps it, and torch does not
        # count what hangs over. Under "symmetric" it would add one window too many.
        hang_over = self.padding_rule == "tf_same"
        return functional.avg_pool2d(input, 3, 2, (top, left), ceil_mode=hang_over, count_include_pad=False)
