"""The loop: windows in, updates out, and now and then an evaluation, a checkpoint, a look back.

Truncated back-propagation through time (Williams & Peng 1990): the state goes on from window to
window, the gradient stops at its edge.
"""

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from carousel.model.data import Batch, Corpus
from carousel.model.network import Network
from carousel.model.training.averaging import Average
from carousel.model.training.checkpoint import Checkpoints
from carousel.model.training.errors import CheckpointError, DivergedError
from carousel.model.training.evaluate import Evaluation, Evaluator
from carousel.model.training.events import Emit, silent
from carousel.model.training.feed import feed, to_device
from carousel.model.training.flow import gradient_flow
from carousel.model.training.health import GIVE_UP_AFTER, ROLL_BACK_AFTER, BackOff, Tally
from carousel.model.training.objective import Objective
from carousel.model.training.optimizer import Optimizer, Schedule
from carousel.model.training.precision import check_precision
from carousel.model.training.progress import Progress, Pulse
from carousel.model.training.recipe import Recipe
from carousel.model.training.snapshot import Snapshot
from carousel.model.training.weight_dropping import dropping
from carousel.model.training.workers import Workers

# Updates between two looks at what the device computed. A look makes the host wait for a GPU.
LOOK_EVERY = {"cpu": 1, "cuda": 10}
FIRST_PROGRESS = 5  # updates


class Trainer:
    """One run of a recipe over a corpus; `run` goes on from the newest checkpoint in the folder.

    Raises ConfigError when the device can't learn in the recipe's precision.
    """

    def __init__(
        self,
        recipe: Recipe,
        corpus: Corpus,
        folder: Path | str,
        *,
        workers: Workers | None = None,
        emit: Emit = silent,
    ) -> None:
        self.recipe, self.corpus, self.folder = recipe, corpus, Path(folder)
        self.workers, self.emit = workers or Workers(), emit
        device = self.workers.device
        check_precision(recipe.precision, device)
        torch.manual_seed(recipe.seed)
        self.network = make_network(recipe, corpus).to(device)
        # The workers begin alike, and drop different units.
        torch.manual_seed((recipe.seed + self.workers.rank) % 2**64)
        self.parameters = list(self.network.parameters())
        self.optimizer = Optimizer(self.network, recipe)
        self.schedule = Schedule(recipe)
        self.average = Average(self.network, recipe)
        self.objective = Objective(corpus, device)
        self.evaluate = Evaluator(recipe, corpus, self.workers, beat=self.beat)
        self.batches = feed(recipe, corpus, "train", self.workers)
        self.checkpoints = Checkpoints(self.folder, recipe.keep_checkpoints)
        self.tally = Tally(recipe.clip_norm, device)
        self.back_off = BackOff()
        self.progress, self.pulse = Progress(recipe), Pulse()
        self.rows: Tensor | None = None
        self.step = 0
        self.best: float | None = None
        self.validation_loss: float | None = None
        self.stale = 0  # evaluations without anything better
        self.evaluated_at = 0
        self.seconds = 0.0
        self.roll_backs = 0
        self._sealed = -1

    def run(self) -> str:
        """Learn until the recipe is done ("finished") or the file `stop` is there ("stopped").

        Raises DivergedError when the loss stays not finite through several roll-backs.
        """
        self._begin()
        recipe = self.recipe
        while (end := self._end()) is None:
            batch = next(self.batches)
            self.progress.count(batch)
            batch = to_device(batch, self.workers.device)
            self._update(batch)
            self.beat()
            if not self._look():
                continue
            if self.step % recipe.gradients_every == 0:
                self._show_gradients(batch)
            if self.step % recipe.evaluate_every == 0 and not self._validate():
                continue
            if self.step % recipe.checkpoint_every == 0:
                self._save()
        self._report()  # how far it came, also where nothing is held out
        if end == "finished" and self.evaluated_at != self.step:
            self._validate()
        self._save()
        return end

    def _update(self, batch: Batch) -> None:
        recipe, network = self.recipe, self.network
        self.network.train()
        begin = network.initial_rows(len(batch.x))  # learned ones get their gradient
        if batch.fresh is not None and self.rows is not None:
            begin = torch.where(batch.fresh[:, None], begin, self.rows)
        with self._precision(), dropping(network.rnn, recipe.network.weight_dropout):
            # Padding comes last and its state is never carried on: no lengths, no packing.
            outputs, rows = network.forward_fused(batch.x, begin)
        total, count = self.objective(outputs, batch)
        loss = total / count.clamp(min=1)
        self.network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        loss = self.workers.share(self.parameters, loss.detach(), count)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if recipe.clip_norm:
            clip_grads_with_norm_(self.parameters, recipe.clip_norm, norm)
        bad = ~(norm.isfinite() & loss.isfinite())
        # The optimiser skips the update by itself, on the device; the host need not know yet.
        self.optimizer.step(rate=self.rate, skip=bad)
        self.step += 1
        self.average.update(self.step)
        rows = rows.detach().float()
        self.rows = torch.where(rows.isfinite().all(1, keepdim=True), rows, begin.detach())
        self.tally.add(loss, norm, bad)

    def _precision(self) -> torch.autocast:
        # bfloat16 products; weights, states between windows and losses stay float32.
        enabled = self.recipe.precision == "bfloat16"
        return torch.autocast(self.workers.device.type, torch.bfloat16, enabled=enabled)

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        return self.schedule.rate(self.step) * self.back_off.scale

    def _look(self) -> bool:
        """See what the latest updates came to; False when they came to nothing: a roll-back."""
        if self.step % LOOK_EVERY[self.workers.device.type]:
            return True
        sums = self.tally.read()
        self.progress.saw(sums)
        if sums.bad and self.back_off.scale == 1:
            self.warn(
                "a loss or gradient was not finite: the update is skipped, and the learning rate "
                "halved for a while"
            )
        self.back_off.saw(sums)
        if sums.streak >= ROLL_BACK_AFTER:
            self._roll_back(f"{sums.streak} updates in a row were not finite")
            return False
        if self.progress.due(self.step, FIRST_PROGRESS):
            self._report()
        return True

    def _report(self) -> None:
        if not self.progress.sums.good:
            return
        self.emit(
            "progress",
            self.step,
            epoch=self.batches.epoch,
            learning_rate=self.rate,
            nonfinite_steps=self.back_off.skipped,
            **self.progress.take(self.step, self.seconds_now, self.workers.world),
        )

    @property
    def seconds_now(self) -> float:
        """Clock time of learning so far, over all attempts."""
        return self.seconds + self.progress.elapsed

    def _end(self) -> str | None:
        """Why to stop now: "finished", "stopped" or, to go on, None. All workers say the same."""
        recipe = self.recipe
        if self.step >= recipe.max_steps:
            return "finished"
        if recipe.patience and self.stale >= recipe.patience:
            return "finished"
        if self.step % LOOK_EVERY[self.workers.device.type]:
            return None
        epochs = recipe.max_epochs and self.batches.epoch >= recipe.max_epochs
        late = recipe.max_seconds is not None and self.seconds_now >= recipe.max_seconds
        if self.workers.any(bool(epochs or late)):
            return "finished"
        return "stopped" if self.workers.any((self.folder / "stop").exists()) else None

    def _validate(self) -> bool:
        """Evaluate, and keep what is best; False when it came to nothing: a roll-back."""
        self.evaluated_at = self.step
        if not len(self.corpus.segments["validation"]):
            return True
        self._report()
        with self.average.applied():
            found = self.evaluate(self.network, "validation")
        if not math.isfinite(found.loss):
            self._roll_back("the validation loss is not finite")
            return False
        better = self.best is None or found.loss < self.best
        self.schedule.evaluated(better)
        self.stale = 0 if better else self.stale + 1
        self.validation_loss = found.loss
        self._report_evaluation(found, better)
        if better:
            self.best = found.loss
            self._save(best=True)
        self.progress.skip()
        return True

    def _report_evaluation(self, found: Evaluation, better: bool) -> None:
        self.emit(
            "evaluation",
            self.step,
            split="validation",
            loss=found.loss,
            metrics=found.metrics,
            best=better,
        )

    def _show_gradients(self, batch: Batch) -> None:
        flow = gradient_flow(self.network, batch, self.objective, self.progress.clipped_ratio)
        self.emit("gradients", self.step, **flow.to_dict())

    def _begin(self) -> None:
        resumed = self._newest()
        if resumed is not None:
            Snapshot(self).load(self.checkpoints.path(resumed))
            self._sealed = resumed
        self.emit(
            "started",
            self.step,
            parameters=sum(p.numel() for p in self.parameters),
            max_steps=self.recipe.max_steps,
            resumed_from=resumed,
        )
        self.progress.start(self.step)
        if resumed is None:
            self._save()  # so that there is something to roll back to, and a full disk is seen now
        else:  # a kill may have come between its making and its telling
            best = self.checkpoints.best == resumed
            self._report_checkpoint(self.checkpoints.size(resumed), best=best, again=True)

    def warn(self, message: str) -> None:
        """Tell people something that they should know."""
        self.emit("warning", self.step, message=message)

    def beat(self) -> None:
        """Now and then say that the process lives, whatever else there is to say."""
        if self.pulse.due():
            self.emit("alive", self.step)

    def _newest(self) -> int | None:
        """The step of the newest checkpoint that is whole; all workers get the same."""
        found = self.checkpoints.newest(self.warn) if self.workers.first else None
        number = torch.tensor(-1 if found is None else found, device=self.workers.device)
        self.workers.agree([number])
        return int(number) if int(number) >= 0 else None

    def _save(self, *, best: bool = False) -> None:
        if self._sealed == self.step:
            return
        size = Snapshot(self).save(self.step, best=best)
        self._sealed, self.roll_backs = self.step, 0
        self._report_checkpoint(size, best=best)

    def _report_checkpoint(self, size: int, *, best: bool, again: bool = False) -> None:
        self.emit(
            "checkpoint",
            self.step,
            again=again,
            validation_loss=self.validation_loss,
            best=best,
            size_bytes=size,
        )

    def _roll_back(self, reason: str) -> None:
        """Take the weights of the last checkpoint, behind the data that was read since."""
        self.roll_backs += 1
        if self.roll_backs > GIVE_UP_AFTER:
            raise DivergedError(
                f"{reason}, again after {GIVE_UP_AFTER} roll-backs: a lower learning rate or "
                "clip_norm may help, or the data hold values that are far too large"
            )
        step = self._newest()
        if step is None:
            raise CheckpointError(f"{reason}, and no checkpoint is whole")
        skipped, cursor = self.back_off.skipped, self.batches.cursor
        scale, seconds = self.back_off.scale, self.seconds_now
        Snapshot(self).load(self.checkpoints.path(step))
        self.warn(f"{reason}: back to the checkpoint of step {step}")
        self.batches.seek(cursor)
        self.rows, self._sealed = None, step
        self.tally = Tally(self.recipe.clip_norm, self.workers.device)
        self.back_off = BackOff(scale=scale, skipped=skipped)
        self.seconds = seconds
        self.progress.start(self.step)


def make_network(recipe: Recipe, corpus: Corpus) -> Network:
    """A network for the corpus as it begins, of the present random state."""
    shape = recipe.network
    network = Network(corpus.model_config(shape))
    if shape.cell == "lstm" and shape.chrono_steps is not None:
        network.set_chrono_bias(shape.chrono_steps)
    elif shape.cell == "lstm" and shape.constant_bias is not None:
        network.set_forget_bias(shape.constant_bias)
    return network
