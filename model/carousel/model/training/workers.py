"""The processes that share a job: each learns from its own streams, the gradients are averaged."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among `world` ones, `rank` from 0; alone every method costs nothing."""

    rank: int = 0
    world: int = 1
    device: torch.device = CPU

    @classmethod
    def from_environment(cls) -> "Workers":
        """Join the processes that torchrun started, or be alone; on a GPU where there is one."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        device = CPU
        if torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        if world > 1:
            # NCCL refuses two processes on one device.
            shared = device.type == "cpu" or torch.cuda.device_count() < world
            backend = "gloo" if shared else "nccl"
            dist.init_process_group(backend, store=_store(), rank=rank, world_size=world)
        return cls(rank, world, device)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, parameters: Sequence[Tensor], loss: Tensor, count: Tensor) -> Tensor:
        """Make each gradient, and the loss, the mean over all that the workers counted."""
        if self.world == 1:
            return loss
        gradients = [p.grad for p in parameters if p.grad is not None]
        parts = [g.flatten() for g in gradients] + [loss.detach().reshape(1)]
        # One message: gradients and loss weighted by what they were taken over, and the weight.
        flat = torch.cat([torch.cat(parts) * count, count.reshape(1).to(loss.dtype)])
        dist.all_reduce(flat)
        flat = flat[:-1] / flat[-1].clamp(min=1)
        mean: tuple[Tensor, ...] = torch.split(flat, [p.numel() for p in parts])
        for gradient, value in zip(gradients, mean, strict=False):
            gradient.copy_(value.view_as(gradient))
        return mean[-1].squeeze()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the workers."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so for at least one worker."""
        return (
            flag
            if self.world == 1
            else bool(self.sum(torch.tensor(flag, device=self.device).int()))
        )

    def agree(self, tensors: Sequence[Tensor]) -> None:
        """Give all workers what the first one has."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Come back when all workers are here."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the connections."""
        if self.world > 1:
            dist.destroy_process_group()


def _store() -> PrefixStore:
    """Where the workers find each other: torchrun's store, with a place for each of its attempts.

    Without that a worker may read where one of the last attempt was, and be refused by nobody.
    """
    environment = os.environ
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    # torchrun keeps the store itself; whoever starts the workers otherwise leaves it to the first.
    kept = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(address, port, is_master=not kept and environment["RANK"] == "0")
    return PrefixStore(f"attempt-{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
