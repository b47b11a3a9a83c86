"""Train the shipped character model: python -m carousel.model.zoo.train_king_james.

The text is Debian's (apt-get install bible-kjv bible-kjv-text). About 20 minutes of a whole core.
"""

import argparse
import math
import subprocess
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from carousel.model import weights
from carousel.model.baseline import BASELINE, measure
from carousel.model.config import ModelConfig, Softmax, Tokens
from carousel.model.network import Network
from carousel.model.tokenizer import Characters

BATCH, WINDOW = 32, 96  # streams read side by side, steps that a gradient goes back
WARM_UP, RATE, LAST_RATE = 200, 3e-3, 0.02  # steps, learning rate, share of it at the end
SAMPLE = 8192  # held-out characters that the baseline of the gates is measured over
FOLDER = Path(__file__).parent / "king-james" / "1"


def read_text() -> str:
    """The King James Bible, a verse a line, an empty line between chapters, no references."""
    command = ["bible", "-f", "gen1:1-rev22:21"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines, chapter = [], ""
    for line in printed.splitlines():
        reference, verse = line.split(" ", 1)
        if chapter not in ("", reference.split(":")[0]):
            lines.append("")
        chapter = reference.split(":")[0]
        lines.append(verse.strip())
    return "\n".join(lines) + "\n"


def train(network: Network, ids: Tensor, steps: int) -> None:
    """Truncated back-propagation through time: each stream carries its state on, detached."""
    length = (len(ids) - 1) // BATCH
    inputs = ids[: BATCH * length].view(BATCH, length)
    targets = ids[1 : BATCH * length + 1].view(BATCH, length)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.99))

    def rate(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return min((step + 1) / WARM_UP, LAST_RATE + (1 - LAST_RATE) * cosine)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    rows, at, begun = network.initial_rows(BATCH), 0, time.monotonic()
    for step in range(steps):
        if at + WINDOW > length:
            rows, at = network.initial_rows(BATCH), 0
        x, wanted = inputs[:, at : at + WINDOW], targets[:, at : at + WINDOW]  # [B, T]
        at += WINDOW
        # bfloat16 products make a step twice as fast; the weights themselves stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            logits, rows = network.forward_fused(x, rows)  # [B, T, V]
        loss = cross_entropy(logits.float().flatten(0, 1), wanted.flatten())
        rows = rows.detach().float()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            bits, seconds = loss.item() / math.log(2), time.monotonic() - begun
            print(f"step {step + 1}: {bits:.3f} bits per character, {seconds:.0f} s", flush=True)


@torch.no_grad()
def bits_per_character(network: Network, ids: Tensor) -> float:
    """Mean over one pass through the text, the state carried from start to end."""
    rows, total, window = network.initial_rows(1), 0.0, 4096
    for at in range(0, len(ids) - 1, window):
        wanted = ids[at + 1 : at + 1 + window]
        logits, rows = network.forward_fused(ids[None, at : at + len(wanted)], rows)
        total += cross_entropy(logits[0], wanted, reduction="sum").item()
    return total / (len(ids) - 1) / math.log(2)


def ngram_bits(text: str, held_out: str, order: int) -> float:
    """An n-gram with Witten-Bell smoothing down to the uniform distribution, as a baseline."""
    levels: list[defaultdict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(order)]
    for i in range(order - 1, len(text)):
        for k, level in enumerate(levels):
            level[text[i - k : i]][text[i]] += 1
    symbols, total = len(set(text)), 0.0
    for i in range(order - 1, len(held_out)):
        p = 1 / symbols
        for k, level in enumerate(levels):
            seen = level.get(held_out[i - k : i])
            if seen:
                p = (seen[held_out[i]] + len(seen) * p) / (seen.total() + len(seen))
        total -= math.log2(p)
    return total / (len(held_out) - order + 1)


CARD = """# king-james, version 1

A character model: it reads text one character at a time and answers the logits of the next one.

| | |
|---|---|
| network | {config.cell}, {config.layers} layers of {config.hidden_size}, embedding \
{config.input.embedding}, {symbols} symbols, {parameters:,} parameters |
| weights | float16, {size:,} bytes (widened to float32 when loaded) |
| data | King James Bible, {characters:,} characters, a verse a line, no verse references; text in \
the public domain, from Debian's `bible-kjv-text` |
| licence of the weights | Apache-2.0, as the rest of the project |
| held out | the last 10 % ({held:,} characters, part of the New Testament), never trained on |
| **bits per character, held out** | **{bits:.3f}** (these weights as shipped, one pass, state \
carried) |
| n-gram baselines, same split | 3-gram {three:.2f}, 5-gram {five:.2f}, 7-gram {seven:.2f} \
(Witten-Bell) |
| trained | {steps:,} steps of {batch} x {window} characters, AdamW, cosine from {rate}, dropout \
{config.dropout}, bfloat16 products, seed {seed}, {minutes:.0f} minutes \
by the clock on one shared core |

Made by

    apt-get install bible-kjv bible-kjv-text
    python -m carousel.model.zoo.train_king_james

It writes in the manner of its text, and means nothing by it.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=8000)
    arguments.add_argument("--seed", type=int, default=20261123)
    arguments.add_argument("--folder", type=Path, default=FOLDER)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    text = read_text()
    tokenizer = Characters("".join(sorted(set(text))))
    size = len(tokenizer)
    config = ModelConfig(
        cell="lstm",
        layers=2,
        hidden_size=256,
        input=Tokens(size, 64),
        head=Softmax(size),
        dropout=0.2,
        tokenizer=tokenizer,
    )
    network, cut, begun = Network(config), len(text) * 9 // 10, time.monotonic()
    train(network, torch.tensor(tokenizer.encode(text[:cut])), given.steps)
    minutes = (time.monotonic() - begun) / 60
    weights.save(given.folder, network, dtype=torch.float16)
    shipped = weights.load(given.folder)
    card = CARD.format(
        config=config,
        symbols=size,
        parameters=sum(p.numel() for p in network.parameters()),
        size=(given.folder / weights.WEIGHTS).stat().st_size,
        characters=len(text),
        held=len(text) - cut,
        bits=bits_per_character(shipped, torch.tensor(tokenizer.encode(text[cut:]))),
        three=ngram_bits(text[:cut], text[cut:], 3),
        five=ngram_bits(text[:cut], text[cut:], 5),
        seven=ngram_bits(text[:cut], text[cut:], 7),
        steps=given.steps,
        batch=BATCH,
        window=WINDOW,
        rate=RATE,
        seed=given.seed,
        minutes=minutes,
    )
    weights.save(given.folder, shipped, card=card, dtype=torch.float16)
    held_out = torch.tensor(tokenizer.encode(text[cut : cut + SAMPLE]))
    (given.folder / BASELINE).write_text(measure(shipped, held_out).to_json())
    print(card)


if __name__ == "__main__":
    main()
