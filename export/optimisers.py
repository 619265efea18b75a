"""Optimisers with the parameter groups of a recipe."""

import torch
from torch import nn

from bnhw.export.normalisations import ParameterRole, roles_of_parameters
from bnhw.export.recipes import Recipe


def build_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or Adam with one parameter group for each role that `model` has.

    A group's "rate_divisor" divides the learning rate that `set_rate` gives it.
    """
    roles = roles_of_parameters(model)
    parameters = dict(model.named_parameters())
    groups = [
        {
            "params": [parameters[name] for name in parameters if roles[name] is role],
            "weight_decay": recipe.weight_decay if role in recipe.decayed else 0.0,
            "rate_divisor": recipe.gain_rate_divisor if role is ParameterRole.GAIN else 1.0,
        }
        for role in ParameterRole
        if role in roles.values()
    ]
    if recipe.optimiser == "adam":
        return torch.optim.Adam(groups, lr=recipe.schedule.peak)
    return torch.optim.SGD(groups, lr=recipe.schedule.peak, momentum=recipe.momentum)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group its share of the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate / group["rate_divisor"]
