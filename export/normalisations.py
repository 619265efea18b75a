"""One factory for the normalisations of the four papers, and the roles of learned values in training.

Networks name a place (`Position`) and get what the chosen `Normalisation` has there: a norm with its activation
function, a convolution, dropout, or nothing. The layers, with the papers' equations, are in
`bnhw.export.normalisation_layers`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum, StrEnum
from typing import Any, Literal, get_args

from torch import nn

from bnhw.errors import BadInput
from bnhw.export.config_rules import TINY, are_numbers, from_json_values, is_number, to_json_values
from bnhw.export.layers import BinaryConv2d, Conv2d, InputNormalisation, Padding, ShiftedReLU, Temperature
from bnhw.export.normalisation_layers import (
    AffineLayer,
    InputBatchNorm2d,
    InstanceScaledBatchNorm2d,
    MeanOnlyBatchNorm2d,
    OuterGainBatchNorm2d,
    SigmoidGainBatchNorm2d,
    TwoGainBatchNorm2d,
    WeightNormConv2d,
)

Weights = Literal["1bit", "float"]
ActivationFunction = Literal["relu", "relu6"]
InputKind = Literal["fixed", "offline", "batch_norm", "batch_norm_minus", "none"]

FIXED_INPUT = 128.0
"""Mean and deviation of "fixed" input normalisation for 8-bit pixels (paper 3, section 3.4)."""

REDUCED_GAIN_RATE_DIVISOR = 100.0
"""c of paper 3, section 3.2."""

RBN_SIGMOID_SHIFT, IEBN_SIGMOID_SHIFT = 1.0, -1.0
"""Initial w_b of paper 3, equation 29."""


class Normalisation(StrEnum):
    """What stands where the papers' reference networks have batch norm and ReLU."""

    BATCH_NORM = "batch_norm"
    """Batch norm, gain and shift learned (paper 1 Baseline 1, paper 3 BASE, paper 4 BatchNorm)."""
    BATCH_NORM_MINUS = "batch_norm_minus"
    """Batch norm, gain and shift not learned (paper 1 Baseline 2, paper 4 BatchNorm-minus)."""
    FINAL_ONLY = "final_only"
    """Shifted ReLU, and one batch norm behind the last weights, not learned (paper 1, variant 3)."""
    MEAN_ONLY = "mean_only"
    """Shifted ReLU, and a mean-only batch norm behind the last weights (paper 1, variant 6)."""
    AFFINE = "affine"
    """Gain and shift without normalisation (paper 4, AffineLayer)."""
    NONE = "none"
    """Nothing but the activation function (paper 4, None)."""
    SHIFTED_RELU = "shifted_relu"
    """Shifted ReLU, temperature at the end (paper 1, variant 4, equations 5 and 6)."""
    ELU = "elu"
    """ELU, temperature at the end (paper 1, variant 5, equation 4)."""
    SCALED = "scaled_batch_norm"
    """Batch norm whose gain begins at `gain` and learns slowly (paper 3, section 3.2)."""
    SCALED_A1 = "scaled_a1"
    """The same as gain (X^ + shift) (paper 3, equation 26)."""
    SCALED_A2 = "scaled_a2"
    """The same as gain (gain_0 X^ + shift) (paper 3, equation 27)."""
    RBN = "rbn"
    """Scaled by the sigmoid of a mean of normalised features (paper 3, equations 28 and 29)."""
    RBN_MINUS = "rbn_minus"
    """The same without the mean (paper 3, section 4.5)."""
    IEBN = "iebn"
    """Scaled by the sigmoid of a mean of raw features (paper 3, equations 28 and 29)."""
    IEBN_MINUS = "iebn_minus"
    """The same without the mean (paper 3, section 4.5)."""
    WEIGHT_NORM = "weight_norm"
    """Weight-normalised convolutions with bias, no batch norm (paper 2, section 3.2)."""


SHIFTED_KINDS = frozenset({Normalisation.SHIFTED_RELU, Normalisation.FINAL_ONLY, Normalisation.MEAN_ONLY})
"""Their activation function is the shifted ReLU."""

TEMPERED_KINDS = frozenset({Normalisation.SHIFTED_RELU, Normalisation.ELU, Normalisation.MEAN_ONLY})
"""They divide by the temperature behind the last weights: nothing else bounds the logits there."""

SCALED_KINDS = frozenset({Normalisation.SCALED, Normalisation.SCALED_A1, Normalisation.SCALED_A2})
"""They have an initial gain, and a learning rate of gains divided by `REDUCED_GAIN_RATE_DIVISOR`."""

BATCH_NORM_KINDS = SCALED_KINDS | {
    Normalisation.BATCH_NORM,
    Normalisation.BATCH_NORM_MINUS,
    Normalisation.RBN,
    Normalisation.RBN_MINUS,
    Normalisation.IEBN,
    Normalisation.IEBN_MINUS,
}
"""They have a batch norm at every place."""


class Position(Enum):
    """Where in a network a normalisation stands."""

    INPUT = "input"
    """Before the first weights."""
    HIDDEN = "hidden"
    """An activation function follows."""
    BRANCH = "branch"
    """The end of a residual branch or of a shortcut; the activation function stands behind the sum, if anywhere."""
    FINAL = "final"
    """Behind the last weights, before global pooling and softmax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalisationConfig:
    """A normalisation with its constants. Invalid values raise `BadInput` that lists all of them.

    gain: initial gain of the kinds of `SCALED_KINDS`, in (0, 1]; 1 for all others. epsilon: inside the square root.
    temperature: divisor of the logits, used by `TEMPERED_KINDS` only; 30 to 100 in paper 1.
    dropout: probability that `make_dropout` sets a number to 0 in training, in [0, 1) (paper 2).
    input: how pixels 0 to 255 are normalised before the first weights. "fixed": (x - 128) / 128; "offline": by
        `input_mean` and `input_std`, one number for each colour; "batch_norm": batch norm with the learned gain
        0.58 `gain` and no shift (paper 3, section 3.4); "batch_norm_minus": batch norm with nothing learned (paper 1);
        "none": not at all.
    """

    kind: Normalisation
    gain: float = 1.0
    epsilon: float = 1e-5
    temperature: float = 50.0
    dropout: float = 0.0
    input: InputKind = "fixed"
    input_mean: tuple[float, ...] = ()
    input_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        problems = _config_problems(self)
        if problems:
            raise BadInput("normalisation: " + "; ".join(problems))

    @property
    def gain_rate_divisor(self) -> float:
        """What the learning rate of parameters of role `ParameterRole.GAIN` is divided by (paper 3, section 3.2)."""
        return REDUCED_GAIN_RATE_DIVISOR if self.kind in SCALED_KINDS else 1.0

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; tuples become lists, `kind` its string."""
        return to_json_values(asdict(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "NormalisationConfig":
        """Inverse of `to_json`; only "kind" must be there. Raises `BadInput` that lists every problem."""
        known = {field.name for field in fields(cls)}
        arguments = from_json_values(values, known=known, optional=known - {"kind"}, what="normalisation")
        if values["kind"] in list(Normalisation):
            arguments["kind"] = Normalisation(values["kind"])
        return cls(**arguments)


def _config_problems(config: NormalisationConfig) -> list[str]:
    """Every reason why `config` cannot be built; checks types too, since values may come from a file."""
    scaled = config.kind in SCALED_KINDS
    offline = config.input == "offline"
    means, deviations = config.input_mean, config.input_std
    rules = (
        ("kind", isinstance(config.kind, Normalisation), f"one of {', '.join(Normalisation)}"),
        (
            "gain",
            is_number(config.gain, least=TINY, most=1.0) and (scaled or config.gain == 1),
            "a number in (0, 1]" if scaled else f"1, since only {', '.join(sorted(SCALED_KINDS))} have an initial gain",
        ),
        ("epsilon", is_number(config.epsilon, least=0.0), "a number from 0"),
        ("temperature", is_number(config.temperature, least=TINY), "a number above 0"),
        ("dropout", is_number(config.dropout, least=0.0, most=1 - 2.0**-24), "a number from 0, below 1"),
        ("input", config.input in get_args(InputKind), f"one of {', '.join(get_args(InputKind))}"),
        ("input_mean", are_numbers(means) and bool(means) == offline, _colours_wish(offline)),
        (
            "input_std",
            are_numbers(deviations, least=TINY) and len(deviations) == len(means),
            "as many numbers above 0 as input_mean has",
        ),
    )
    return [f"{name} is {getattr(config, name)!r}, expected {wish}" for name, good, wish in rules if not good]


def _colours_wish(offline: bool) -> str:
    return "one number for each colour" if offline else "nothing, since only input 'offline' uses it"


def make_normalisation(
    config: NormalisationConfig,
    channels: int,
    *,
    position: Position,
    activation: ActivationFunction | None = None,
) -> nn.Module:
    """The norm of a place and the activation function behind it, as one module on (N, channels, H, W).

    activation: what stands there in the network with batch norm, None for nothing; only `Position.HIDDEN` may have one.
    Without one, this is the norm alone, and `make_activation` gives the other part. Where the kind has neither, the
    result is `nn.Identity`; where it has both, a Sequential of "norm" and "activation". Raises ValueError for an
    activation elsewhere, `BadInput` where "offline" input statistics are not those of `channels` colours.
    """
    if activation is not None and position is not Position.HIDDEN:
        raise ValueError(f"an activation function {activation!r} at {position}; expected one at Position.HIDDEN only")
    if position is Position.INPUT:
        return _make_input(config, channels)
    norm = _make_norm(config, channels, final=position is Position.FINAL)
    if activation is None:
        return norm
    function = make_activation(config, activation)
    if isinstance(norm, nn.Identity):
        return function
    return nn.Sequential(OrderedDict(norm=norm, activation=function))


def make_activation(config: NormalisationConfig, activation: ActivationFunction) -> nn.Module:
    """The activation function alone: `activation` itself, or what the kind has in place of batch norm and ReLU.

    For places without a norm, such as behind a residual sum. Shifted ReLU and ELU stand in for ReLU6 too.
    """
    if config.kind in SHIFTED_KINDS:
        return ShiftedReLU()
    if config.kind is Normalisation.ELU:
        return nn.ELU()
    return nn.ReLU() if activation == "relu" else nn.ReLU6()


def _make_input(config: NormalisationConfig, channels: int) -> nn.Module:
    match config.input:
        case "fixed":
            return InputNormalisation((FIXED_INPUT,) * channels, (FIXED_INPUT,) * channels)
        case "offline":
            if len(config.input_mean) != channels:
                raise BadInput(
                    f"normalisation: input_mean has {len(config.input_mean)} numbers for {channels} colours; "
                    "give one for each"
                )
            return InputNormalisation(config.input_mean, config.input_std)
        case "batch_norm":
            return InputBatchNorm2d(channels, epsilon=config.epsilon, initial_gain=config.gain)
        case "batch_norm_minus":
            return nn.BatchNorm2d(channels, eps=config.epsilon, affine=False)
        case "none":
            return nn.Identity()


def _make_norm(config: NormalisationConfig, channels: int, *, final: bool) -> nn.Module:
    match config.kind:
        case Normalisation.BATCH_NORM | Normalisation.SCALED:
            layer = nn.BatchNorm2d(channels, eps=config.epsilon)
            nn.init.constant_(layer.weight, config.gain)
            return layer
        case Normalisation.BATCH_NORM_MINUS:
            return nn.BatchNorm2d(channels, eps=config.epsilon, affine=False)
        case Normalisation.SCALED_A1:
            return OuterGainBatchNorm2d(channels, epsilon=config.epsilon, initial_gain=config.gain)
        case Normalisation.SCALED_A2:
            return TwoGainBatchNorm2d(channels, epsilon=config.epsilon, initial_gain=config.gain)
        case Normalisation.RBN:
            return InstanceScaledBatchNorm2d(
                channels, epsilon=config.epsilon, of_normalised=True, initial_sigmoid_shift=RBN_SIGMOID_SHIFT
            )
        case Normalisation.IEBN:
            return InstanceScaledBatchNorm2d(
                channels, epsilon=config.epsilon, of_normalised=False, initial_sigmoid_shift=IEBN_SIGMOID_SHIFT
            )
        case Normalisation.RBN_MINUS:
            return SigmoidGainBatchNorm2d(channels, epsilon=config.epsilon, initial_sigmoid_shift=RBN_SIGMOID_SHIFT)
        case Normalisation.IEBN_MINUS:
            return SigmoidGainBatchNorm2d(channels, epsilon=config.epsilon, initial_sigmoid_shift=IEBN_SIGMOID_SHIFT)
        case Normalisation.AFFINE:
            return AffineLayer(channels)
        case _ if final:
            return _make_final(config, channels)
    return nn.Identity()


def _make_final(config: NormalisationConfig, channels: int) -> nn.Module:
    """Behind the last weights, for the kinds that have no norm elsewhere."""
    match config.kind:
        case Normalisation.FINAL_ONLY:
            return nn.BatchNorm2d(channels, eps=config.epsilon, affine=False)
        case Normalisation.MEAN_ONLY:
            layers = OrderedDict(norm=MeanOnlyBatchNorm2d(channels), temperature=Temperature(config.temperature))
            return nn.Sequential(layers)
        case Normalisation.SHIFTED_RELU | Normalisation.ELU:
            return Temperature(config.temperature)
    return nn.Identity()


def make_convolution(
    config: NormalisationConfig,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    weights: Weights,
    stride: int = 1,
    groups: int = 1,
    padding: Padding = "symmetric",
    weight_scale: str = "he",
) -> Conv2d:
    """A convolution without bias, or for `Normalisation.WEIGHT_NORM` a weight-normalised one with bias.

    weights: "1bit" or "float". weight_scale: of 1-bit weights, see `BinaryConv2d` and `WeightNormConv2d`.
    """
    if config.kind is Normalisation.WEIGHT_NORM:
        return WeightNormConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            groups=groups,
            padding=padding,
            binary=weights == "1bit",
            weight_scale=weight_scale,
        )
    if weights == "float":
        return Conv2d(in_channels, out_channels, kernel_size, stride=stride, groups=groups, padding=padding)
    return BinaryConv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        groups=groups,
        padding=padding,
        weight_scale=weight_scale,
    )


def make_dropout(config: NormalisationConfig) -> nn.Module:
    """Dropout of the modified basic block (paper 2, section 3.2 and figure 1b); nothing where its probability is 0."""
    return nn.Dropout(config.dropout) if config.dropout > 0 else nn.Identity()


class ParameterRole(Enum):
    """How training treats a learned value (paper 3, section 4.2)."""

    WEIGHT = "weight"
    """Of a convolution or a linear layer: decays."""
    GAIN = "gain"
    """Factor of a norm or of a weight-normalised convolution: does not decay; may learn slowly."""
    SHIFT = "shift"
    """Shift of a norm, or bias: does not decay."""


_WEIGHTS = {"weight": ParameterRole.WEIGHT, "bias": ParameterRole.SHIFT}
_GAIN_AND_SHIFT = {"gain": ParameterRole.GAIN, "shift": ParameterRole.SHIFT}
_SIGMOID = {"sigmoid_gain": ParameterRole.GAIN, "sigmoid_shift": ParameterRole.SHIFT}

PARAMETER_ROLES: tuple[tuple[type[nn.Module], Mapping[str, ParameterRole]], ...] = (
    (WeightNormConv2d, _WEIGHTS | {"gain": ParameterRole.GAIN}),
    (nn.Conv2d, _WEIGHTS),
    (nn.Linear, _WEIGHTS),
    (AffineLayer, _GAIN_AND_SHIFT),
    (TwoGainBatchNorm2d, _GAIN_AND_SHIFT | {"inner_gain": ParameterRole.GAIN}),
    (OuterGainBatchNorm2d, _GAIN_AND_SHIFT),
    (InputBatchNorm2d, {"gain": ParameterRole.GAIN}),
    (SigmoidGainBatchNorm2d, _GAIN_AND_SHIFT | _SIGMOID),
    (InstanceScaledBatchNorm2d, _GAIN_AND_SHIFT | _SIGMOID),
    (nn.BatchNorm2d, {"weight": ParameterRole.GAIN, "bias": ParameterRole.SHIFT}),
)
"""Role of each parameter by the class of its module; the first class that fits counts."""


def roles_of_parameters(model: nn.Module) -> dict[str, ParameterRole]:
    """The role of every parameter of `model`, by its name in `model.named_parameters()` and in that order.

    Raises `BadInput` for parameters of a module that is not in `PARAMETER_ROLES`.
    """
    roles: dict[str, ParameterRole] = {}
    unknown = []
    for name, _ in model.named_parameters():
        path, _, parameter = name.rpartition(".")
        module = model.get_submodule(path)
        role = next((table for kind, table in PARAMETER_ROLES if isinstance(module, kind)), {}).get(parameter)
        if role is None:
            unknown.append(f"{name} of {type(module).__name__}")
        else:
            roles[name] = role
    if unknown:
        raise BadInput(f"no role is known for {', '.join(unknown)}; add their modules to PARAMETER_ROLES")
    return roles
