"""Jobs under faults at random moments: the final weights are those of an undisturbed run.

Each round makes a job of one of a few recipes, strikes it one to three times at moments that a seed
gives, lets the service go on with it, and holds what came of it against a run of the same recipe
that nobody disturbed: the weights bit for bit, every evaluation on the way, the version that
serves, one event after the other.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tests.server.training.postgres import binaries, postgres
from tests.soak.training.faults import FAULTS, Fault
from tests.soak.training.lessons import LESSONS, Lesson
from tests.soak.training.rounds import Round, Truth, undisturbed
from tests.soak.training.site import Site


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of lessons, faults and moments")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="only these")
    parser.add_argument("--lesson", choices=LESSONS, action="append", help="only these")


def run(options: argparse.Namespace) -> list[str]:
    folder, keep = Path(tempfile.mkdtemp(prefix="carousel-soak-")), True
    try:
        with ExitStack() as stack:
            wrong = Soak(folder, stack, options).run()
        keep = bool(wrong)
    except (SystemExit, KeyboardInterrupt):
        keep = False
        raise
    finally:
        if not keep:
            shutil.rmtree(folder)
    return [*wrong, f"what is left of it lies in {folder}"] if wrong else []


class Soak:
    """All rounds. Sites are started when the first round needs them."""

    def __init__(self, folder: Path, stack: ExitStack, options: argparse.Namespace) -> None:
        self._folder, self._stack, self._options = folder, stack, options
        self._random = np.random.default_rng(options.seed)
        self._sites: dict[bool, Site] = {}
        self._truths: dict[str, Truth] = {}

    def run(self) -> list[str]:
        wrong: list[str] = []
        done: Counter[str] = Counter()
        faults = self._faults()
        # Every fault comes as often as every other one.
        turns = [faults[number % len(faults)] for number in range(self._options.rounds)]
        for number, name in enumerate(self._random.permutation(turns)):
            lesson = self._lesson(FAULTS[name])
            found = self._round(f"round-{number}", lesson, FAULTS[name])
            wrong += [f"round {number}, {name}, {lesson.name}: {line}" for line in found]
            done[name] += 1
        print(", ".join(f"{count} x {name}" for name, count in sorted(done.items())))
        return wrong

    def _faults(self) -> list[str]:
        wanted = self._options.fault or list(FAULTS)
        if binaries() is not None:
            return wanted
        print("there is no PostgreSQL: faults of two servers are left out")
        return [name for name in wanted if not FAULTS[name].two_servers]

    def _lesson(self, fault: Fault) -> Lesson:
        names = [
            name
            for name in self._options.lesson or LESSONS
            if fault.suits(poisoned=LESSONS[name].poisoned)
        ]
        return LESSONS[str(self._random.choice(names))]

    def _round(self, job: str, lesson: Lesson, fault: Fault) -> list[str]:
        site = self._site(two=fault.two_servers)
        truth = self._truth(lesson)
        begin = time.monotonic()
        one = Round(site, lesson, job, self._random.spawn(1)[0])
        found = one.run(fault, truth)
        story, verdict = "; ".join(one.told), "WRONG" if found else "as undisturbed"
        seconds = time.monotonic() - begin
        print(f"{job}: {lesson.name}, {story}: {verdict} ({seconds:.0f} s)", flush=True)
        return found

    def _truth(self, lesson: Lesson) -> Truth:
        if lesson.name not in self._truths:
            self._truths[lesson.name] = truth = undisturbed(self._site(two=False), lesson)
            print(f"undisturbed: {lesson.name}, loss {truth.loss:.4g}", flush=True)
        return self._truths[lesson.name]

    def _site(self, *, two: bool) -> Site:
        if two not in self._sites:
            url = self._stack.enter_context(postgres()) if two else None
            site = Site(self._folder / ("two" if two else "one"), 2 if two else 1, url)
            self._sites[two] = self._stack.enter_context(site)
        return self._sites[two]
