"""A corpus: sequences laid end to end on disk, read through memory maps; what jobs learn from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carousel.model.checks import alternative, tagged
from carousel.model.config import (
    Classifier,
    Features,
    Head,
    Input,
    Linear,
    ModelConfig,
    Normalization,
    Softmax,
    Tokens,
)
from carousel.model.data.tasks import (
    ForecastTask,
    LanguageModelTask,
    Task,
    task_from_dict,
    task_to_dict,
)
from carousel.model.errors import ConfigError, DataError
from carousel.model.tokenizer import TOKENIZERS, Tokenizer

Array = NDArray[Any]

MANIFEST = "corpus.json"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corpus:
    """Sequences of steps, with what is to be learned about them; nothing of it is in memory.

    `steps` are token ids [N] or float32 [N, D], raw, missing values filled; sequence s is
    `steps[starts[s]:starts[s + 1]]`. `targets` is None (what comes next), float32 [N, O]
    (forecast), int32 [S] (a label a sequence) or int32 [N] (a label a step); `present` is None or
    bool [N, O]. A segment (begin, scored, end) is read from `begin`; a prediction counts in the
    loss when what it predicts (the next token, a later value, the label of a step) lies in
    [scored, end). `vocabulary` is 0 where steps are not ids. Statistics are of the train split;
    with `residual` those of the outputs are of the change from the present value to that ahead.
    """

    folder: Path
    task: Task
    inputs: tuple[str, ...]
    steps: Array
    starts: Array
    targets: Array | None
    present: Array | None
    segments: Mapping[str, Array]
    labels: tuple[str, ...] | None
    tokenizer: Tokenizer | None
    vocabulary: int
    normalization: Normalization | None
    output_normalization: Normalization | None
    horizon: int
    season: int
    residual: bool
    digest: str

    @classmethod
    def open(cls, folder: Path | str) -> Corpus:
        """Map the corpus in a folder; raises DataError when it is not whole."""
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            arrays = {name: _map(folder, name, a) for name, a in manifest["arrays"].items()}
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder} holds no whole corpus: {error}") from None
        task = task_from_dict(manifest["task"])
        steps = arrays["steps"]
        if isinstance(task, ForecastTask):
            arrays["targets"] = steps[:, : len(task.targets)]
        statistics = {
            name: given and Normalization(tuple(given["mean"]), tuple(given["std"]))
            for name, given in manifest["statistics"].items()
        }
        tokenizer, labels = manifest["tokenizer"], manifest["labels"]
        return cls(
            folder=folder,
            task=task,
            inputs=tuple(manifest["inputs"]),
            steps=steps,
            starts=arrays["starts"],
            targets=arrays.get("targets"),
            present=arrays.get("present"),
            segments={split: arrays[split] for split in SPLITS},
            labels=None if labels is None else tuple(labels),
            tokenizer=tokenizer and alternative("tokenizer", tokenizer, TOKENIZERS),
            vocabulary=manifest["vocabulary"],
            normalization=statistics["normalization"],
            output_normalization=statistics["output_normalization"],
            horizon=manifest["horizon"],
            season=manifest["season"],
            residual=manifest["residual"],
            digest=manifest["digest"],
        )

    def model_config(self, network: object) -> ModelConfig:
        """The config of a network for this corpus.

        `network` is a mapping or an object with names of the proto's NetworkShape; what is absent,
        None or 0 takes its default. Raises ConfigError when the shape is impossible.
        """

        def given(name: str, default: Any) -> Any:
            find = network.get if isinstance(network, Mapping) else _attribute(network)
            return find(name, None) or default

        text = self.vocabulary > 0
        inward: Input = (
            Tokens(self.vocabulary, given("embedding_size", 64))
            if text
            else Features(self.steps.shape[1], self.inputs)
        )
        return ModelConfig(
            cell=given("cell", "lstm"),
            layers=given("layers", 2),
            hidden_size=given("hidden_size", 256 if text else 64),
            input=inward,
            head=self._head(),
            dropout=float(given("dropout", 0.0)),
            projection=given("projection", 0),
            normalization=self.normalization,
            output_normalization=self.output_normalization,
            tokenizer=self.tokenizer,
            learned_initial_state=given("learned_initial_state", False),
        )

    def _head(self) -> Head:
        if isinstance(self.task, ForecastTask):
            # [first step's targets, second step's targets, ...]
            targets = len(self.task.targets)
            return Linear(
                self.horizon * targets,
                residual=targets if self.residual else 0,
                targets=self.task.targets,
            )
        if isinstance(self.task, LanguageModelTask):
            return Softmax(self.vocabulary)
        if self.labels is None:
            raise ConfigError("a corpus with labels for each sequence or step needs their names")
        return Classifier(self.labels)


class CorpusWriter:
    """Makes a corpus in a folder: arrays grow on disk, `seal` writes the manifest last."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self._arrays: dict[str, dict[str, Any]] = {}

    def append(self, name: str, values: Array) -> None:
        """Add rows to an array; its first rows fix its type and width."""
        array = self._arrays.get(name)
        if array is None:
            array = {"dtype": values.dtype.str, "shape": [0, *values.shape[1:]]}
            self._arrays[name] = array
            (self.folder / f"{name}.bin").unlink(missing_ok=True)
        array["shape"][0] += len(values)
        with (self.folder / f"{name}.bin").open("ab") as file:
            file.write(np.ascontiguousarray(values, np.dtype(array["dtype"])).data)

    def map(self, name: str) -> Array:
        """What was added to an array so far; writing to it writes to the file."""
        return _map(self.folder, name, self._arrays[name], mode="r+")

    def rename(self, name: str, new: str) -> None:
        """Give an array another name, in the place of what had it."""
        (self.folder / f"{name}.bin").replace(self.folder / f"{new}.bin")
        self._arrays[new] = self._arrays.pop(name)

    def drop(self, *names: str) -> None:
        """Remove arrays that were needed on the way only."""
        for name in names:
            if self._arrays.pop(name, None) is not None:
                (self.folder / f"{name}.bin").unlink()

    def seal(
        self,
        task: Task,
        segments: Mapping[str, Array],
        *,
        inputs: tuple[str, ...] = (),
        labels: tuple[str, ...] | None = None,
        tokenizer: Tokenizer | None = None,
        vocabulary: int = 0,
        normalization: Normalization | None = None,
        output_normalization: Normalization | None = None,
        horizon: int = 1,
        season: int = 1,
        residual: bool = False,
    ) -> Corpus:
        """Write the manifest and open the corpus."""
        for split in SPLITS:
            self.append(split, np.asarray(segments[split], np.int64).reshape(-1, 3))
        for name, array in self._arrays.items():
            with (self.folder / f"{name}.bin").open("rb") as file:
                array["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        statistics = {
            "normalization": normalization and asdict(normalization),
            "output_normalization": output_normalization and asdict(output_normalization),
        }
        manifest: dict[str, Any] = {
            "task": task_to_dict(task),
            "inputs": list(inputs),
            "labels": labels,
            "tokenizer": tokenizer and tagged(tokenizer, TOKENIZERS),
            "vocabulary": vocabulary,
            "statistics": statistics,
            "horizon": horizon,
            "season": season,
            "residual": residual,
            "arrays": dict(sorted(self._arrays.items())),
        }
        manifest["digest"] = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
        draft = self.folder / f"{MANIFEST}.new"
        draft.write_text(json.dumps(manifest, indent=1) + "\n")
        draft.replace(self.folder / MANIFEST)
        return Corpus.open(self.folder)


def _map(folder: Path, name: str, array: Mapping[str, Any], mode: Any = "r") -> Array:
    path, dtype, shape = folder / f"{name}.bin", np.dtype(array["dtype"]), tuple(array["shape"])
    size = math.prod(shape) * dtype.itemsize
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} must have {size} bytes, got {path.stat().st_size}")
    # A map of nothing is an error of the system.
    return np.asarray(np.memmap(path, dtype, mode, shape=shape)) if size else np.empty(shape, dtype)


def _attribute(shape: object) -> Any:
    return lambda name, default: getattr(shape, name, default)
