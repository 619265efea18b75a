"""Normalisation layers of the four papers, each in its paper's own terms.

Paper 1 is McDonnell et al., arXiv 1907.06916; paper 2 Gaur, Folz and Dengel, arXiv 2008.07970; paper 3 Davis and Frank,
"Revisiting Batch Normalization", 2021; paper 4 Peerthum and Stamp, arXiv 2303.12818. X is what a layer reads and X^ its
normalised form, (X - mean) / sqrt(variance + epsilon) with the statistics of each channel (paper 3, equation 3): those
of the batch in training, running averages in evaluation.

Tensors are float32 (N, C, H, W); learned values have one number a channel, shape (C,). `materialise` gives a layer as
standard layers for export: whatever is a constant after training is computed, so that it can be folded.
"""

import math

import torch
from torch import Tensor, nn

from bnhw.export.layers import Conv2d, Padding, he_standard_deviation, nearest_power_of_two, sign_straight_through

INPUT_GAIN = 0.58
"""Standard deviation of a unit Gaussian behind a ReLU, sigma_act of paper 3, section 3.3."""


def per_channel(values: Tensor) -> Tensor:
    """Values (C,) in the shape that meets a tensor (N, C, H, W)."""
    return values.reshape(-1, 1, 1)


def row_norms(weight: Tensor) -> Tensor:
    """Euclidean norm of the weights of each output channel: (out, ...) to (out,)."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return norms


class FoldableBatchNorm2d(nn.BatchNorm2d):
    """Base of batch norms Y = gain X^ + shift whose gain and shift are functions of what is learned."""

    def __init__(self, channels: int, *, epsilon: float) -> None:
        super().__init__(channels, eps=epsilon, affine=False)

    def effective_gain(self) -> Tensor:
        """The factor of X^, shape (C,)."""
        raise NotImplementedError

    def effective_shift(self) -> Tensor:
        """What is added, shape (C,)."""
        return torch.zeros_like(self.effective_gain())

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Apply to every channel; the shape stays."""
        normalised = super().forward(input)
        return normalised * per_channel(self.effective_gain()) + per_channel(self.effective_shift())

    def materialise(self) -> nn.BatchNorm2d:
        """A plain batch norm with the same running statistics, gain and shift."""
        return plain_batch_norm(self, self.effective_gain(), self.effective_shift())


def plain_batch_norm(source: nn.BatchNorm2d, gain: Tensor, shift: Tensor) -> nn.BatchNorm2d:
    """A batch norm with the running statistics of `source` and these constants, in the mode of `source`."""
    layer = nn.BatchNorm2d(source.num_features, eps=source.eps)
    layer.weight = nn.Parameter(gain.detach().clone(), requires_grad=False)
    layer.bias = nn.Parameter(shift.detach().clone(), requires_grad=False)
    assert source.running_mean is not None and source.running_var is not None  # we never turn the statistics off
    layer.running_mean, layer.running_var = source.running_mean.clone(), source.running_var.clone()
    return layer.train(source.training)


class OuterGainBatchNorm2d(FoldableBatchNorm2d):
    """A1: Y = gain (X^ + shift) (paper 3, equation 26). Initially gain is `initial_gain` in (0, 1], shift 0."""

    def __init__(self, channels: int, *, epsilon: float, initial_gain: float) -> None:
        super().__init__(channels, epsilon=epsilon)
        self.gain = nn.Parameter(torch.full((channels,), initial_gain))
        self.shift = nn.Parameter(torch.zeros(channels))

    def effective_gain(self) -> Tensor:
        """The gain."""
        return self.gain

    def effective_shift(self) -> Tensor:
        """Gain times shift."""
        return self.gain * self.shift


class TwoGainBatchNorm2d(OuterGainBatchNorm2d):
    """A2: Y = gain (inner_gain X^ + shift) (paper 3, equation 27). `inner_gain` is gamma_0, initially 1."""

    def __init__(self, channels: int, *, epsilon: float, initial_gain: float) -> None:
        super().__init__(channels, epsilon=epsilon, initial_gain=initial_gain)
        self.inner_gain = nn.Parameter(torch.ones(channels))

    def effective_gain(self) -> Tensor:
        """The product of both gains."""
        return self.gain * self.inner_gain


class InputBatchNorm2d(FoldableBatchNorm2d):
    """Batch norm of the image before the first weights: Y = gain X^, no shift (paper 3, section 3.4).

    Initially the gain is 0.58 times `initial_gain`, the initial gain of the batch norms inside the network.
    """

    def __init__(self, channels: int, *, epsilon: float, initial_gain: float) -> None:
        super().__init__(channels, epsilon=epsilon)
        self.gain = nn.Parameter(torch.full((channels,), INPUT_GAIN * initial_gain))

    def effective_gain(self) -> Tensor:
        """The gain."""
        return self.gain


class SigmoidGainBatchNorm2d(FoldableBatchNorm2d):
    """RBN- and IEBN-: Y = gain S X^ + shift with S = sigmoid(w_b) (paper 3, equation 28 and the text after 29).

    `sigmoid_shift` is w_b, initially 1 for RBN- (S is 0.731) and -1 for IEBN- (0.269); gain is 1 and shift 0.
    """

    def __init__(self, channels: int, *, epsilon: float, initial_sigmoid_shift: float) -> None:
        super().__init__(channels, epsilon=epsilon)
        self.gain = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.sigmoid_shift = nn.Parameter(torch.full((channels,), initial_sigmoid_shift))

    def effective_gain(self) -> Tensor:
        """Gain times S."""
        return self.gain * torch.sigmoid(self.sigmoid_shift)

    def effective_shift(self) -> Tensor:
        """The shift."""
        return self.shift


class InstanceScaledBatchNorm2d(nn.BatchNorm2d):
    """RBN and IEBN: Y = gain S X^ + shift with S = sigmoid(w_v GAP(V) + w_b) (paper 3, equations 28 and 29).

    GAP is the mean over height and width of each image and channel; V is X^ for RBN (`of_normalised`) and X for IEBN.
    `sigmoid_gain` is w_v, initially 0, `sigmoid_shift` is w_b, initially 1 for RBN and -1 for IEBN; gain is 1, shift 0.
    """

    def __init__(self, channels: int, *, epsilon: float, of_normalised: bool, initial_sigmoid_shift: float) -> None:
        super().__init__(channels, eps=epsilon, affine=False)
        self.of_normalised = of_normalised
        self.gain = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.sigmoid_gain = nn.Parameter(torch.zeros(channels))
        self.sigmoid_shift = nn.Parameter(torch.full((channels,), initial_sigmoid_shift))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Apply to every image and channel; the shape stays."""
        normalised = super().forward(input)
        means = (normalised if self.of_normalised else input).mean(dim=(2, 3), keepdim=True)
        scale = torch.sigmoid(per_channel(self.sigmoid_gain) * means + per_channel(self.sigmoid_shift))
        return per_channel(self.gain) * scale * normalised + per_channel(self.shift)

    def materialise(self) -> "MaterialisedInstanceScale":
        """The same function with seven nodes in ONNX; for evaluation only."""
        slope: Tensor = self.sigmoid_gain
        intercept: Tensor = self.sigmoid_shift
        if self.of_normalised:  # GAP(X^) is an affine function of GAP(X)
            assert self.running_mean is not None and self.running_var is not None
            deviation = torch.sqrt(self.running_var + self.eps)
            slope, intercept = slope / deviation, intercept - slope * self.running_mean / deviation
        norm = plain_batch_norm(self, self.gain, torch.zeros_like(self.shift))
        layer = MaterialisedInstanceScale(norm, slope=slope, intercept=intercept, shift=self.shift)
        return layer.train(self.training)


class MaterialisedInstanceScale(nn.Module):
    """sigmoid(slope GAP(X) + intercept) norm(X) + shift, for export.

    In ONNX: ReduceMean, Mul, Add and Sigmoid, beside them BatchNormalization, then Mul and Add.
    """

    slope: Tensor
    intercept: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d, *, slope: Tensor, intercept: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.norm = norm
        for name, values in (("slope", slope), ("intercept", intercept), ("shift", shift)):
            self.register_buffer(name, per_channel(values.detach().clone()))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Apply to every image and channel; the shape stays."""
        scale = torch.sigmoid(input.mean(dim=(2, 3), keepdim=True) * self.slope + self.intercept)
        scaled: Tensor = scale * self.norm(input)
        return scaled + self.shift


class MeanOnlyBatchNorm2d(nn.Module):
    """Y = X - mean, without a learned bias (paper 1, section IV, variant 6; Salimans and Kingma, arXiv 1602.07868).

    The mean is that of each channel over the batch in training, `running_mean` in evaluation. `momentum` has the
    meaning that it has in `torch.nn.BatchNorm2d`; None is the plain average of all batches.
    """

    running_mean: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, *, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def reset_running_stats(self) -> None:
        """Forget all batches; the name is that in `torch.nn.BatchNorm2d`."""
        self.running_mean.zero_()
        self.num_batches_tracked.zero_()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Subtract the mean of every channel; the shape stays."""
        if not self.training:
            return input - per_channel(self.running_mean)
        mean = input.mean(dim=(0, 2, 3))
        with torch.no_grad():
            self.num_batches_tracked += 1
            weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), weight)
        return input - per_channel(mean)


STATISTICS_LAYERS = (nn.BatchNorm2d, MeanOnlyBatchNorm2d)
"""All layers with running statistics: `momentum`, `num_batches_tracked`, `reset_running_stats()`."""


class AffineLayer(nn.Module):
    """Y = gain X + shift: what batch norm is without the normalisation (paper 4, section 3.2). Initially 1 and 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch.nn
        """Apply to every channel; the shape stays."""
        return input * per_channel(self.gain) + per_channel(self.shift)


class WeightNormConv2d(Conv2d):
    """Convolution with w = g v / ||v|| for each output channel, and a bias (paper 2, section 3.2: y = phi(w x + b)).

    `weight` is v, `gain` is g, shape (out,), `bias` is b. Initially g = ||v||, so that w is v, drawn as in `Conv2d`,
    and b = 0. With `binary` the direction is that of the signs: w = g sign(v) / ||sign(v)|| = g sign(v) / sqrt(fan in),
    two values for each output channel, one bit a weight and one learned scale a channel. The gradient of the sign is
    the identity. Initially g = sqrt(2), so that the scale is that of `BinaryConv2d`, or the power of two nearest to it
    with `weight_scale` "pow2" (learning then leaves the powers of two).
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
        binary: bool = False,
        weight_scale: str = "he",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups, padding=padding)
        self.binary = binary
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.gain = nn.Parameter(self._initial_gain(weight_scale))

    def _initial_gain(self, weight_scale: str) -> Tensor:
        if not self.binary:
            return row_norms(self.weight.detach())
        scale = (nearest_power_of_two if weight_scale == "pow2" else he_standard_deviation)(self.weight.shape)
        return torch.full((self.out_channels,), scale * math.sqrt(self.fan_in))

    @property
    def fan_in(self) -> int:
        """Weights of one output channel."""
        return math.prod(self.weight.shape[1:])

    def effective_weight(self) -> Tensor:
        """w, shape (out, in / groups, height, width); each output channel has the Euclidean norm |g|."""
        gain = self.gain.reshape(-1, 1, 1, 1)
        if self.binary:
            return gain / math.sqrt(self.fan_in) * sign_straight_through(self.weight)
        norm = row_norms(self.weight).reshape(-1, 1, 1, 1)
        return gain * self.weight / norm.clamp(min=torch.finfo(norm.dtype).tiny)

    def materialise(self) -> Conv2d:
        """The same convolution with its weights written out."""
        layer = self.plain_form()
        layer.weight = nn.Parameter(self.effective_weight().detach().clone(), requires_grad=False)
        assert self.bias is not None
        layer.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return layer.train(self.training)
