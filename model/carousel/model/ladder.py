"""The ladder of step speeds, from one gate and one session at a time to everything at once.

`climb` is what `carousel bench kernels` prints: data only, each arm checked before it is timed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from carousel.model.config import Cell, Features, Linear, ModelConfig
from carousel.model.kernels import make_kernel
from carousel.model.kernels.kernel import Kernel
from carousel.model.network import Network

FEATURES = OUTPUTS = 64
CHUNK = 16  # steps of a chunk
TOLERANCE = 1e-5  # of the largest output, against the reference
ROUGH = 5e-2  # the same in int8


@dataclass(frozen=True, slots=True)
class Rung:
    """One arm: steps of one session a second, and how often the first arm's speed that is.

    An arm that could not run has no speed, and the note says why.
    """

    name: str
    steps_per_second: float | None
    speed_up: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Arm:
    name: str
    steps: int  # of one session, in one call
    call: Callable[[], object]


def climb(
    *,
    hidden_size: int = 256,
    layers: int = 2,
    batches: tuple[int, ...] = (64, 256),
    blocks: int = 5,
    seconds: float = 0.2,
) -> list[Rung]:
    """Measure every arm, interleaved: the median of `blocks` blocks of `seconds` each.

    Uses torch's current number of threads; set it to 1 to see what one core does.
    """
    arms: list[_Arm | Rung] = []
    for cell in ("lstm", "gru"):
        arms += _arms(cell, hidden_size, layers, batches)
    timed = [arm for arm in arms if isinstance(arm, _Arm)]
    speeds: dict[str, list[float]] = {arm.name: [] for arm in timed}
    for block in range(blocks):
        # There and back, so that a machine that slows down slows every arm alike.
        for arm in timed if block % 2 == 0 else timed[::-1]:
            speeds[arm.name].append(_speed(arm, seconds))
    first = median(speeds[timed[0].name])
    return [
        Rung(arm.name, median(speeds[arm.name]), median(speeds[arm.name]) / first)
        if isinstance(arm, _Arm)
        else arm
        for arm in arms
    ]


def _arms(cell: Cell, hidden: int, layers: int, batches: tuple[int, ...]) -> list[_Arm | Rung]:
    config = ModelConfig(
        cell=cell,
        layers=layers,
        hidden_size=hidden,
        input=Features(FEATURES),
        head=Linear(OUTPUTS),
    )
    network = Network(config).eval()
    gatewise, fused, onnx = (make_kernel(network, name=n) for n in ("gatewise", "fused", "onnx"))
    int8 = make_kernel(network, precision="int8")
    label = cell.upper()
    arms: list[_Arm | Rung] = [
        _step(f"{label}, gates one by one, B 1", network, gatewise, 1),
        _step(f"{label}, all gates in one product, B 1", network, fused, 1),
        *(_step(f"{label}, a batch of sessions, B {b}", network, fused, b) for b in batches),
        *(_step(f"{label}, onnxruntime, B {b}", network, onnx, b) for b in (1, *batches)),
        *(_step(f"{label}, int8, B {b}", network, int8, b, ROUGH) for b in (1, *batches)),
        *(_chunk(f"{label}, chunks of {CHUNK}, B {b}", network, onnx, b) for b in (1, *batches)),
    ]
    name = f"{label}, cuDNN, chunks of {CHUNK}, B {batches[-1]}"
    if not torch.cuda.is_available():
        return [*arms, Rung(name, None, None, "no CUDA device")]
    on_device = Network(config)
    on_device.load_state_dict(network.state_dict())
    kernel = make_kernel(on_device, "cuda", "fused")
    stepped = f"{label}, on the GPU, B {batches[-1]}"
    return [
        *arms,
        _step(stepped, network, kernel, batches[-1]),
        _chunk(name, network, kernel, batches[-1]),
    ]


def _step(
    name: str, network: Network, kernel: Kernel, batch: int, tolerance: float = TOLERANCE
) -> _Arm:
    x, rows = torch.randn(batch, 1, FEATURES), torch.randn(batch, network.schema.width)
    there = x[:, 0].to(kernel.device), rows.to(kernel.device)
    y, after = kernel.step(*there)
    _check(name, network, x, rows, y[:, None], after, tolerance)
    return _Arm(name, batch, _synchronised(kernel, lambda: kernel.step(*there)))


def _chunk(name: str, network: Network, kernel: Kernel, batch: int) -> _Arm:
    x, rows = torch.randn(batch, CHUNK, FEATURES), torch.randn(batch, network.schema.width)
    lengths = torch.full((batch,), CHUNK)
    there = tuple(v.to(kernel.device) for v in (x, lengths, rows))
    y, after = kernel.chunk(*there)
    _check(name, network, x, rows, y, after)
    return _Arm(name, batch * CHUNK, _synchronised(kernel, lambda: kernel.chunk(*there)))


def _synchronised(kernel: Kernel, call: Callable[[], object]) -> Callable[[], object]:
    if kernel.device.type != "cuda":
        return call

    def waited() -> None:
        call()
        torch.cuda.synchronize()

    return waited


@torch.no_grad()
def _check(
    name: str,
    network: Network,
    x: Tensor,
    rows: Tensor,
    y: Tensor,
    after: Tensor,
    tolerance: float = TOLERANCE,
) -> None:
    """A wrong answer has no speed."""
    for given, wanted in zip((y, after), network(x, rows), strict=True):
        error = float((given.cpu() - wanted).abs().max() / wanted.abs().max())
        if not error <= tolerance:
            raise RuntimeError(f"{name} differs from the reference by {error:.1e}: not timed")


def _speed(arm: _Arm, seconds: float) -> float:
    calls, passed, begun = 0, 0.0, time.perf_counter()
    while passed < seconds:
        arm.call()
        calls += 1
        passed = time.perf_counter() - begun
    return arm.steps * calls / passed
