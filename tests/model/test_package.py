"""The package keeps its borders, says what is public, and ships models that work."""

import subprocess
import sys

import numpy as np
import torch

import carousel.model
from carousel.model import (
    SamplingOptions,
    climb,
    load,
    load_baseline,
    make_kernel,
    sample,
    shipped,
)


def test_model_imports_no_grpc_and_nothing_of_the_server() -> None:
    script = (
        "import sys, carousel.model, carousel.model.zoo.train_king_james, "
        "carousel.model.zoo.train_sunspots\n"
        "bad = [m for m in sys.modules if m.split('.')[0] == 'grpc' or "
        "m.startswith(('carousel.server', 'carousel.client', 'carousel.v1'))]\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_everything_public_can_be_imported() -> None:
    for name in carousel.model.__all__:
        assert hasattr(carousel.model, name)


def test_shipped_models_are_complete() -> None:
    assert sorted(shipped()) == ["king-james", "sunspots"]
    for folder in shipped().values():
        files = {p.name for p in (folder / "1").iterdir()}
        assert files == {"config.json", "weights.safetensors", "README.md", "baseline.json"}
        assert load_baseline(folder / "1", load(folder / "1").config) is not None
        assert (folder / "1" / "weights.safetensors").stat().st_size < 2_000_000


def test_shipped_character_model_knows_english() -> None:
    network = load(shipped()["king-james"] / "1")
    tokenizer = network.config.tokenizer
    assert tokenizer is not None
    kernel = make_kernel(network)
    text = "And the LORD spake unto Moses, saying, "
    ids = torch.tensor([tokenizer.encode(text)])
    y, rows = kernel.chunk(ids, torch.tensor([len(text)]), network.initial_rows(1))
    options = SamplingOptions(temperature=0)
    written = ""
    while len(written) < 60:
        token, _ = sample(y[0, -1].numpy(), options, [], np.random.default_rng(0))
        written += tokenizer.decode([token])
        y, rows = kernel.step(torch.tensor([token]), rows)
        y = y[:, None]
    assert " the " in written


def test_shipped_forecaster_follows_a_cycle() -> None:
    network = load(shipped()["sunspots"] / "1")
    months = torch.arange(264)
    cycle = 60 - 55 * torch.cos(2 * torch.pi * months / 132)
    x = cycle[None, :-1, None]
    y = make_kernel(network).sequences(x, torch.tensor([263]))[0, :, 0]
    error = (y[132:] - cycle[133:]).abs().mean()
    assert float(error) < 20


def test_ladder_checks_and_times_every_arm() -> None:
    rungs = climb(hidden_size=8, batches=(2, 3), blocks=1, seconds=0.001)
    timed = [rung for rung in rungs if rung.steps_per_second is not None]
    assert rungs[0].speed_up == 1.0
    assert len({rung.name for rung in rungs}) == len(rungs)
    assert all(rung.steps_per_second > 0 for rung in timed if rung.steps_per_second)
    if not torch.cuda.is_available():
        assert {rung.note for rung in rungs if rung not in timed} == {"no CUDA device"}
