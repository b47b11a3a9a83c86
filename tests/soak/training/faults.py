"""What is done to jobs and servers, each at a moment that nobody chose."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from carousel.client import Client, JobState
from carousel.errors import ServerUnreachable
from carousel.server.training.job_folder import JobFolder
from carousel.server.training.process import members, signal_all
from tests.model.training.faults import DAMAGES, damage, set_room
from tests.soak.training.site import Site


@dataclass(frozen=True, slots=True)
class Victim:
    """A job at a site, and the chance of its round."""

    site: Site
    job: str
    random: np.random.Generator

    @property
    def client(self) -> Client:
        return self.site.clients[0]

    @property
    def folder(self) -> JobFolder:
        return self.site.folder(self.job)

    @property
    def over(self) -> bool:
        """A client that met its server down may take some seconds to look for it again."""
        end = time.monotonic() + 20
        while True:
            try:
                return self.client.jobs.get(self.job).state.ended
            except ServerUnreachable:
                if time.monotonic() > end:
                    raise

    def pause(self, most: float) -> None:
        """Wait for some part of so many seconds."""
        time.sleep(self.random.uniform(0, most))

    def once_in(self, count: int) -> bool:
        return bool(self.random.integers(count) == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`strike` says what it did, and leaves the servers up.

    `keeps_checkpoints`: none is made or lost that an undisturbed run would not have too, so that
    even a roll-back goes where it would have gone.
    """

    strike: Callable[[Victim], str]
    two_servers: bool = False
    poisoned: bool = False
    keeps_checkpoints: bool = False

    def suits(self, *, poisoned: bool) -> bool:
        """Whether the weights must be the undisturbed ones for a lesson of that kind."""
        return poisoned if self.poisoned else self.keeps_checkpoints or not poisoned


def kill_job(victim: Victim) -> str:
    """All of its processes, or one of them."""
    found = members(victim.folder.path)
    if found and victim.once_in(2):
        found = [int(victim.random.choice(found))]
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return f"{len(found)} processes killed"


def kill_server(victim: Victim) -> str:
    """Alone, or with all that runs, as when the power fails."""
    all_of_it = victim.once_in(2)
    victim.site.servers[0].kill()
    if all_of_it:
        signal_all(victim.folder.path, signal.SIGKILL)
    victim.pause(3)
    victim.site.servers[0].start()
    return "power failed" if all_of_it else "server killed"


def drain_server(victim: Victim) -> str:
    victim.site.servers[0].terminate()
    victim.site.servers[0].start()
    return "server drained"


def cancel(victim: Victim) -> str:
    """And go on with it later."""
    return "cancelled" if _cancel(victim) else "cancelled too late"


def damage_checkpoint(victim: Victim) -> str:
    """The newest one, while the job rests; or the file that names the best."""
    if not _cancel(victim):
        return "nothing to damage any more"
    folder = victim.folder.path / "checkpoints"
    found = sorted(path for path in folder.glob("*") if path.name.isdigit())
    how = str(victim.random.choice([*DAMAGES, "empty"]))
    if not found:
        return "no checkpoint yet"
    if how == "empty":
        shutil.rmtree(found[-1])
        found[-1].mkdir()
    else:
        size = (found[-1] / "weights.safetensors").stat().st_size
        damage(found[-1], how, at=int(victim.random.integers(size)))
    victim.client.jobs.resume(victim.job)
    return f"checkpoint {found[-1].name}: {how}"


def fill_disk(victim: Victim) -> str:
    """For the job alone, or for its server and the records too."""
    everywhere = victim.once_in(2)
    pids = [victim.site.servers[0].pid] if everywhere else []
    room = 0 if everywhere else int(victim.random.integers(1 << 16))
    for pid in [*pids, *members(victim.folder.path)]:
        set_room(room, pid)
    victim.pause(3)
    # What was started meanwhile took the limit from its parent.
    for pid in [*pids, *members(victim.folder.path)]:
        set_room(None, pid)
    return "disk full" if everywhere else f"{room:,} bytes left"


def kill_one_of_two(victim: Victim) -> str:
    """The other one goes on with the job while it is away."""
    owner = victim.site.owner(victim.job)
    place = int(victim.random.integers(2)) if owner is None else owner
    other = victim.site.clients[1 - place]
    victim.site.servers[place].kill()
    with_it = victim.once_in(3) and signal_all(victim.folder.path, signal.SIGKILL)
    seen = other.jobs.get(victim.job)
    if not seen.state.ended:
        last = victim.site.record(victim.job).last_sequence
        next(iter(other.jobs.watch(victim.job, after=last, timeout=60)))
    victim.site.servers[place].start()
    which = "idle one" if owner is None else "owner"
    return f"{which} of two servers killed{' with its job' if with_it else ''}"


def _cancel(victim: Victim) -> bool:
    """Whether it was in time: the job then rests."""
    victim.client.jobs.cancel(victim.job)
    for event in victim.client.jobs.watch(victim.job, timeout=60):
        del event
    return victim.client.jobs.get(victim.job).state is JobState.CANCELLED


FAULTS = {
    "kill-job": Fault(strike=kill_job, keeps_checkpoints=True),
    "kill-server": Fault(strike=kill_server, keeps_checkpoints=True),
    "drain-server": Fault(strike=drain_server),
    "cancel": Fault(strike=cancel),
    "damage": Fault(strike=damage_checkpoint),
    "disk-full": Fault(strike=fill_disk, keeps_checkpoints=True),
    "poison": Fault(strike=kill_job, keeps_checkpoints=True, poisoned=True),
    "two-servers": Fault(strike=kill_one_of_two, keeps_checkpoints=True, two_servers=True),
}
