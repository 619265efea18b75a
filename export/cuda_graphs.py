"""A network's step on CUDA as two recorded graphs, forward and backward, that are replayed for every batch.

A small network's step is hundreds of kernels that take microseconds each: launching them one by one takes longer than
running them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

WARM_UP_STEPS = 3
"""Steps before recording, in which libraries choose their algorithms."""


class Replay:
    """A network in training mode whose steps are recorded at the first batch; called like the network.

    Batches of another shape than the first run without the recording, and so does everything on a CPU and every network
    that draws random numbers or has hooks. A forward pass that is recorded must not look at values (`item`, `bool`):
    that raises RuntimeError. autocast: makes the context that steps run in, with or without its cache, which a
    recording cannot use.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, autocast: Callable[[bool], AbstractContextManager[object]]
    ) -> None:
        self.model = model
        self.autocast = autocast
        self.can_record = device.type == "cuda" and not (draws_random_numbers(model) or has_hooks(model))
        self._recorded: nn.Module | None = None
        self._shape: torch.Size | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of a batch; gradients flow as from the network itself."""
        if self.can_record and self._recorded is None:
            self._shape = images.shape
            self._recorded = self._record(images)
        if self._recorded is not None and images.shape == self._shape:
            logits: Tensor = self._recorded(images)
            return logits
        with self.autocast(True):
            plain: Tensor = self.model(images)
        return plain

    def forget(self) -> None:
        """Free the recording, whose memory holds all that a step computes."""
        if self._recorded is not None:
            vars(self._recorded).pop("forward", None)  # it refers to its module
        self._recorded = None

    def _record(self, images: Tensor) -> nn.Module:
        """Record one step; it leaves the network's statistics as they were."""
        before = [buffer.clone() for buffer in self.model.buffers()]
        whole = _Whole(self.model)
        with self.autocast(False):
            torch.cuda.make_graphed_callables(
                whole,
                (images.clone(memory_format=torch.preserve_format),),
                num_warmup_iters=WARM_UP_STEPS,
                allow_unused_input=True,
            )
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(value)
        return whole


def has_hooks(model: nn.Module) -> bool:
    """Whether something is called before or behind a layer: when a recording is replayed, it would not be."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in model.modules()
    )


class _Whole(nn.Module):
    """The network once more, so that recording leaves its own `forward` as it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits."""
        logits: Tensor = self.model(images)
        return logits


def draws_random_numbers(model: nn.Module) -> bool:
    """Whether a layer drops elements at random."""
    return any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in model.modules())
