"""A job in its folder: reads job.json, learns, leaves result/; every end is an event."""

import errno
import json
import math
import os
import traceback
from pathlib import Path
from typing import Any

from carousel.model import weights
from carousel.model.config import Features, Linear, ModelConfig, Tokens
from carousel.model.data import Corpus
from carousel.model.errors import ModelError
from carousel.model.network import Network
from carousel.model.training.errors import DivergedError, TrainingError
from carousel.model.training.evaluate import Evaluation, Evaluator
from carousel.model.training.events import Emit, Events, last_kind, silent
from carousel.model.training.recipe import Recipe
from carousel.model.training.result import write_result
from carousel.model.training.trainer import Trainer
from carousel.model.training.workers import Workers

# torchrun counts here how often it started the workers anew.
RESTARTS, MAX_RESTARTS = "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"
# What comes of the job or the machine: to try again would change nothing.
KNOWN = (OSError, ModelError, TrainingError)
LONGEST = 2000  # characters of a message
# What the system says when there is no room: the disk, a quota, a limit on files.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(folder: Path, workers: Workers) -> int:
    """Learn what the folder says; the exit status: 0 when there is a result or it was stopped."""
    path = folder / "events.jsonl"
    last, again = last_kind(path), os.environ.get(RESTARTS, "0")
    if last == "finished" and (folder / "result").exists():
        return 0
    if last == "failed" and again != "0":
        return 1  # torchrun starts whatever failed anew; what has a reason would fail again
    events = Events(path) if workers.first else None
    try:
        _learn(folder, workers, events.emit if events else silent)
    except Exception as error:
        traceback.print_exc()
        known = isinstance(error, KNOWN)
        if events is None and isinstance(error, OSError):
            events = Events(path)  # the first worker knows nothing of it
        if events:
            final = workers.world == 1 or again == os.environ.get(MAX_RESTARTS)
            _tell(events, error, known or final)
        return 1
    finally:
        if events:
            events.close()
    return 0


def _learn(folder: Path, workers: Workers, emit: Emit) -> None:
    given = json.loads((folder / "job.json").read_text())
    recipe = Recipe.from_dict(given["recipe"])
    trainer = Trainer(recipe, Corpus.open(given["corpus"]), folder, workers=workers, emit=emit)
    if trainer.run() == "stopped":
        emit("stopped", trainer.step)
        return
    step, network = _best(trainer)
    test = _test(trainer, network, step, emit)
    if not workers.first:
        return
    baseline_loss, passed = _hold_against(given, trainer, test, emit)
    seconds, corpus = trainer.seconds_now, trainer.corpus
    write_result(folder / "result", network, recipe, corpus, step=step, seconds=seconds, test=test)
    emit("finished", trainer.step, baseline_loss=baseline_loss, passed=passed, seconds=seconds)


def _best(trainer: Trainer) -> tuple[int, Network]:
    """The best checkpoint's step and network; the newest when nothing was held out to choose by."""
    checkpoints, best = trainer.checkpoints, trainer.checkpoints.best
    try:
        if best is not None:
            checkpoints.check(best)
    except TrainingError as error:
        trainer.warn(f"{error}; the newest one is taken for the result")
        best = None
    step = trainer.step if best is None else best
    return step, weights.load(checkpoints.path(step))


def _test(trainer: Trainer, network: Network, step: int, emit: Emit) -> Evaluation | None:
    if not len(trainer.corpus.segments["test"]):
        return None
    found = trainer.evaluate(network.to(trainer.workers.device), "test")
    if not math.isfinite(found.loss):
        raise DivergedError(
            "the test loss is not finite: the last part of the data holds values that are far too "
            "large"
        )
    emit("evaluation", step, split="test", loss=found.loss, metrics=found.metrics, best=True)
    return found


def _hold_against(
    given: dict[str, Any], trainer: Trainer, test: Evaluation | None, emit: Emit
) -> tuple[float | None, bool]:
    """The loss of the version that is in service, and whether ours is below it by the margin."""
    if given.get("baseline") is None or test is None:
        return None, True
    try:
        other = weights.load(given["baseline"])
        if not alike(other.config, trainer.network.config):
            raise ModelError("it reads or answers something else than the data has")
    except ModelError as error:
        emit("warning", trainer.step, message=f"not held against the version in service: {error}")
        return None, True
    # The other workers are gone by now.
    alone = Workers(device=trainer.workers.device)
    evaluate = Evaluator(trainer.recipe, trainer.corpus, alone, beat=trainer.beat)
    loss = evaluate(other.to(alone.device), "test").loss
    margin = given.get("margin")
    return loss, margin is None or test.loss < loss * (1 - margin)


def alike(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether both read and answer the same, however they do so."""
    if _reads(one) != _reads(other):
        return False
    pairs = zip(_columns(one), _columns(other), strict=True)
    return all(mine == its or not (mine and its) for mine, its in pairs)  # (): not known


def _reads(config: ModelConfig) -> tuple[object, ...]:
    head: object = config.head
    if isinstance(config.head, Linear):
        head = config.head.size
    size = config.input.vocabulary if isinstance(config.input, Tokens) else config.input_size
    return config.takes_tokens, size, head, config.tokenizer


def _columns(config: ModelConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of what is read and of what is forecast."""
    return (
        config.input.names if isinstance(config.input, Features) else (),
        config.head.targets if isinstance(config.head, Linear) else (),
    )


def _tell(events: Events, error: Exception, final: bool) -> None:
    """Write down why it ended; a warning when torchrun will start the workers anew."""
    message = str(error) if isinstance(error, KNOWN) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in FULL:
        message = f"there is no room left on the disk: {error}"
    try:
        events.emit("failed" if final else "warning", events.step, message=message[:LONGEST])
    except OSError:
        print("the failure could not be written to events.jsonl", flush=True)
