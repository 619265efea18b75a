"""Recorded steps: what is replayed, what is not, and that a recording leaves the network as it was."""

import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

torch = pytest.importorskip("torch", reason="bnhw.export needs torch")

from torch import Tensor, nn  # noqa: E402 - after the skip

from bnhw.export.cuda_graphs import Replay, draws_random_numbers  # noqa: E402

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def small_network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))
    return network.train()


def images(count: int = 6) -> Tensor:
    values: Tensor = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))
    return values


class Recorder:
    """In place of CUDA's: runs the network as often as that does, and says when a recording is replayed."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0
        self.cached: list[bool] = []

    def make(
        self, module: nn.Module, samples: tuple[Tensor, ...], *, num_warmup_iters: int, allow_unused_input: bool
    ) -> nn.Module:
        assert allow_unused_input
        for _ in range(num_warmup_iters + 1):
            module(*samples)
        self.recorded += 1
        plain = module.forward

        def replay(batch: Tensor) -> Tensor:
            self.replayed += 1
            logits: Tensor = plain(batch)
            return logits

        module.forward = replay
        return module

    def autocast(self, cached: bool) -> AbstractContextManager[object]:
        self.cached.append(cached)
        return nullcontext()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder.make)
    return recorder


def test_a_cpu_records_nothing(recorder: Recorder) -> None:
    network = small_network()
    replay = Replay(network, CPU, recorder.autocast)
    assert torch.equal(replay(images()), network(images()))
    assert (recorder.recorded, recorder.cached) == (0, [True])


def test_the_first_batch_is_recorded_and_batches_of_its_shape_are_replayed(recorder: Recorder) -> None:
    replay = Replay(small_network(), CUDA, recorder.autocast)
    for count in (6, 6, 2, 6):
        assert replay(images(count)).shape == (count, 5)
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    assert recorder.cached == [False, True]


def test_recording_leaves_statistics_and_the_networks_forward_as_they_were(recorder: Recorder) -> None:
    recorded, plain = small_network(), small_network()
    for network, device in ((recorded, CUDA), (plain, CPU)):
        Replay(network, device, recorder.autocast)(images())
    assert recorder.recorded == 1
    for name, tensor in plain.state_dict().items():
        assert torch.equal(recorded.state_dict()[name], tensor), name
    assert "forward" not in vars(recorded)


def test_gradients_flow_through_a_replayed_step(recorder: Recorder) -> None:
    recorded, plain = small_network(), small_network()
    for network, device in ((recorded, CUDA), (plain, CPU)):
        replay = Replay(network, device, recorder.autocast)
        for _ in range(2):
            replay(images()).sum().backward()  # type: ignore[no-untyped-call]  # torch's own
    assert recorder.replayed == 2
    for one, other in zip(recorded.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_networks_that_draw_random_numbers_are_not_recorded(recorder: Recorder) -> None:
    dropping = nn.Sequential(small_network(), nn.Dropout(0.5))
    assert draws_random_numbers(dropping)
    assert not draws_random_numbers(nn.Sequential(small_network(), nn.Dropout(0.0)))
    Replay(dropping, CUDA, recorder.autocast)(images())
    assert recorder.recorded == 0


def test_networks_with_hooks_are_not_recorded(recorder: Recorder) -> None:
    network = small_network()
    seen: list[int] = []
    next(network.children()).register_forward_hook(lambda *_: seen.append(1))
    replay = Replay(network, CUDA, recorder.autocast)
    replay(images()), replay(images())
    assert (recorder.recorded, len(seen)) == (0, 2)


def test_a_recording_that_is_forgotten_is_freed(recorder: Recorder) -> None:
    replay = Replay(small_network(), CUDA, recorder.autocast)
    replay(images())
    recording = weakref.ref(replay._recorded)
    gc.disable()
    try:
        replay.forget()
        assert recording() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_recorded_steps_train_like_plain_ones_on_cuda() -> None:
    def train(can_record: bool) -> list[float]:
        network = small_network().to(CUDA)
        replay = Replay(network, CUDA, autocast)
        replay.can_record &= can_record
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        losses = []
        for step in range(8):
            loss = replay(images().to(CUDA)).float().square().mean() * (step + 1)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimiser.step()
            losses.append(float(loss))
        return losses

    autocast: Callable[[bool], AbstractContextManager[object]] = lambda cached: torch.autocast(  # noqa: E731
        "cuda", torch.bfloat16, cache_enabled=cached
    )
    assert train(True) == pytest.approx(train(False), rel=1e-2)
