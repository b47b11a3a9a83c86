"""Messages that nobody sends by mistake, to every method, for as long as one likes."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import grpc

from tests.conftest import running, tiny_models
from tests.server.contract import Wire
from tests.server.fuzz import METHODS, Control, Maker, is_wrong, outcome, revive

BEFORE_A_LOOK = 64  # calls between two looks at whether others are still served


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))


def run(options: argparse.Namespace) -> list[str]:
    wrong: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        tiny_models(store)
        with (
            running(store=store, shipped=False, training_jobs_at_once=0) as server,
            grpc.insecure_channel(server.target) as channel,
        ):
            calls = _run(channel, Control(channel, store), options, wrong)
    print(f"{calls:,} calls, the first seed {options.seed}", flush=True)
    return [f"{count} times {what}" for what, count in wrong.most_common()]


def _run(
    channel: grpc.Channel, control: Control, options: argparse.Namespace, wrong: Counter[str]
) -> int:
    end = time.monotonic() + options.minutes * 60
    random, handles, calls = Random(options.seed), [0], 0
    while time.monotonic() < end:
        if calls % BEFORE_A_LOOK == 0:
            handles = revive(Wire(channel))
            control.step()
        method, seed = random.choice(METHODS), random.getrandbits(32)
        failure = outcome(channel, method, Maker(seed, handles).requests(method))
        if why := is_wrong(method, failure):
            if not wrong[why]:
                print(f"{why}: seed {seed}, handles {handles}", flush=True)
            wrong[why] += 1
        calls += 1
    return calls
