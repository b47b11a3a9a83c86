"""A loaded version: the network, its arena, the replies in memory, and the queues before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from carousel.errors import ModelNotStepwise, QueueFull
from carousel.model import (
    Baseline,
    Kernel,
    Network,
    Softmax,
    StateSchema,
    StepPrecision,
    Tokens,
    make_kernel,
)
from carousel.model.kernels.device import device_of
from carousel.server.accelerator import Accelerator
from carousel.server.arena import FIRST_CAPACITY, Arena, Rows
from carousel.server.door import Door, Lane
from carousel.server.health_log import HealthLog
from carousel.server.health_policy import HealthPolicy
from carousel.server.held.queue import HeldQueue
from carousel.server.metrics import VersionMetrics
from carousel.server.names import version_key, version_name
from carousel.server.one_step import tensor_head
from carousel.server.parties import Parties
from carousel.server.scheduler import Scheduler
from carousel.server.settings import Settings
from carousel.server.state_health import StateHealth, Touch
from carousel.server.work import Floats, Inputs, Ints
from carousel.v1 import tensor_pb2

# Of addresses, for rows and replies on a CPU, which take memory when they are used: what fits in
# there is never copied to make room for more, while everybody waits.
RESERVED_BYTES = 2**30


class LoadedVersion:
    """One model version in service. `ordinal` is its number in the session table."""

    def __init__(
        self,
        network: Network,
        *,
        model: str,
        version: int,
        ordinal: int,
        digest: bytes,
        device: str,
        settings: Settings,
        metrics: VersionMetrics,
        precision: StepPrecision = "float32",
        baseline: Baseline | None = None,
        parties: Parties | None = None,
    ) -> None:
        self.model = model
        self.version = version
        self.ordinal = ordinal
        self.name = version_name(model, version)
        self.key = version_key(model, version)
        self.digest = digest
        self.network = network
        self.config = network.config
        self.metrics = metrics
        self.baseline = baseline  # what its gates did on held-out data
        self.device = device
        self.on_cpu = device == "cpu"
        self.computes_on = device_of(torch.device(device))
        self.bit_exact = settings.bit_exact
        self.precision: StepPrecision = precision
        self.kernel: Kernel = make_kernel(
            network,
            device=device,
            name=settings.kernel,
            threads=settings.threads,
            bit_exact=settings.bit_exact,
            precision=precision,
        )
        self.accelerator: Accelerator | None = None
        self.policy: HealthPolicy = ()
        self.health: StateHealth | None = None
        self.health_log = HealthLog(self.name)
        self.retired = False  # on its way out: takes nothing more
        self._know_the_wire()
        self.stepwise = not self.config.bidirectional
        if self.stepwise:
            self._make_room(settings, parties)

    def _make_room(self, settings: Settings, parties: Parties | None) -> None:
        """What sessions need: rows, replies and queues."""
        self.schema = StateSchema.of(self.config)
        limit = settings.device_rows or settings.max_sessions
        each = 4 * (self.schema.width + self.config.output_size)
        first = max(RESERVED_BYTES // each, FIRST_CAPACITY) if self.on_cpu else FIRST_CAPACITY
        self.arena = Arena(self.schema.width, limit=limit, first=first, device=self.device)
        self.scheduler = Scheduler(
            self.input_shape,
            self.input_dtype,
            max_batch=settings.max_batch,
            chunk_slice=settings.chunk_slice,
            max_queue=settings.max_queue,
            max_tenant_queue=settings.tenant_limit,
        )
        self.held = HeldQueue(chunk_slice=settings.chunk_slice)
        self.door = Door(
            limit=settings.max_queue, tenant_limit=settings.tenant_limit, parties=parties
        )
        self.replies: Floats = np.zeros((self.arena.capacity, self.config.output_size), np.float32)
        self.sessions = 0
        self.riding = 0  # items in the present turn
        self.lone_seconds = math.inf  # that the last turn of one step took
        if not self.on_cpu:
            self.accelerate(settings.max_batch)

    def accelerate(self, max_batch: int) -> None:
        """Capture single steps, so that a turn can be under way while another is answered."""
        self.accelerator = Accelerator(
            self.computes_on,
            self.kernel,
            self.arena,
            x=np.zeros(self.one_input, self.input_dtype),
            outputs=self.config.output_size,
            max_batch=max_batch,
        )

    def _know_the_wire(self) -> None:
        """What the inputs of one step look like in a message."""
        self.one_input = (1, *self.input_shape)
        self.input_bytes = math.prod(self.one_input) * np.dtype(self.input_dtype).itemsize
        tokens = self.config.takes_tokens
        wire_type = tensor_pb2.DATA_TYPE_INT64 if tokens else tensor_pb2.DATA_TYPE_FLOAT32
        self.wire_type = wire_type
        self.input_type: np.dtype[Any] = np.dtype(self.input_dtype)
        self.inputs_head = tensor_head(wire_type, self.one_input, self.input_bytes)
        self.output_bytes = self.config.output_size * 4

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one step's input: [D], or nothing for a token."""
        return () if self.config.takes_tokens else (self.config.input_size,)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are; 0 for a model that takes features."""
        return self.config.input.vocabulary if isinstance(self.config.input, Tokens) else 0

    @property
    def generative(self) -> bool:
        """Whether it goes from tokens to a softmax over the same tokens."""
        head = self.config.head
        return isinstance(head, Softmax) and head.vocabulary == self.vocabulary

    @property
    def input_dtype(self) -> npt.DTypeLike:
        return np.int64 if self.config.takes_tokens else np.float32

    def check_stepwise(self) -> None:
        """Raises ModelNotStepwise for a model that has no next step."""
        if not self.stepwise:
            raise ModelNotStepwise(
                f"{self.name} is bidirectional and needs whole sequences: use Predict"
            )

    def run(
        self, x: Inputs, lengths: Ints | None, rows: Rows, indexes: Ints, slots: Ints
    ) -> tuple[Floats, Rows, Sequence[Touch]]:
        """One call of the network: outputs [B, O] or [B, T, O], and the new rows [B, width].

        Under a health policy, its rules are applied on the way: what fired names riders by
        `slots`. `indexes` are those of the riders' first steps; `lengths` None is one step each.
        """
        if lengths is None and self.health is None and isinstance(rows, np.ndarray):
            return *self.kernel.step_arrays(x, rows), ()
        touches: Sequence[Touch] = ()
        given, before = torch.from_numpy(x).to(self.device), torch.as_tensor(rows)
        with torch.no_grad():
            if self.health is not None:
                about = lengths, before, indexes, slots
                y, new, touches = self.health.run(self.kernel, given, *about)
            elif lengths is None:
                y, new = self.kernel.step(given, before)
            else:
                y, new = self.kernel.chunk(given, torch.from_numpy(lengths), before)
        return y.cpu().numpy(), new.numpy() if self.on_cpu else new, touches

    def watch(self, policy: HealthPolicy) -> None:
        """Put all states under a policy, from the next turn on; an empty one: under none."""
        self.policy, self.health = policy, None
        if policy and self.stepwise:
            initial = self.network.initial_rows(1)[0].detach().to("cpu", torch.float32)
            self.health = StateHealth(policy, self.config, initial.numpy())

    def refuse(self, lane: Lane, count: int) -> QueueFull:
        """Count items that there is no room for, and say why."""
        error, why = lane.refusal(self.name)
        self.metrics.rejected(why, count)
        return error

    def allocate(self, count: int) -> Ints:
        """Rows, with room for their replies."""
        rows = self.arena.allocate(count)
        if len(self.replies) < self.arena.capacity:
            grown = np.zeros((self.arena.capacity, self.replies.shape[1]), np.float32)
            grown[: len(self.replies)] = self.replies
            self.replies = grown
        return rows
