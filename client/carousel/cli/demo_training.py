"""The training of the demo: an LSTM reads Python's documentation, and then writes some."""

from __future__ import annotations

import pydoc_data.topics
from typing import TYPE_CHECKING

from carousel.cli import job_live, job_views

if TYPE_CHECKING:
    from carousel.cli.demo_panes import Stage
    from carousel.client import Client

MODEL = "python-docs"
PROMPT = "The "
TEMPERATURE = 0.6
TOKENS = 400
# What a minute of one slow core is enough for.
_UPDATES_A_SECOND = 25
_SHAPE = {"cell": "lstm", "layers": 2, "hidden_size": 128}
_LEARNING = {"batch_size": 16, "window": 64, "learning_rate": 0.005}
_HELD_OUT = {"validation_share": 0.05, "test_share": 0.05}


def play(stage: Stage, client: Client, seconds: float) -> None:
    """Train for so long, show what the model is worth, and let it write."""
    text = documentation()
    stage.say(f"{len(text):,} characters of Python's own documentation, read one by one")
    stage.command(
        f"carousel train topics.txt --name {MODEL} --hidden {_SHAPE['hidden_size']} "
        f"--minutes {seconds / 60:.2g}"
    )
    dataset = client.datasets.upload(text.encode(), id=MODEL, format="text")
    job = client.jobs.create(
        dataset=dataset.name,
        recipe={
            "task": {"type": "language_model"},
            "network": _SHAPE,
            "max_steps": max(10, round(seconds * _UPDATES_A_SECOND)),
            "max_duration": seconds,
            **_LEARNING,
            **_HELD_OUT,
        },
        model=MODEL,
    )
    job_live.show(job, client.jobs.watch(job.name), out=stage.console, hint="")
    job = client.jobs.wait(job.name)
    if job.evaluation is not None:
        stage.show(job_views.evaluation(job.evaluation))
    stage.command(f'carousel generate {MODEL} "{PROMPT}" --temperature {TEMPERATURE}')
    title = f"{job_views.version(job)}, served beside the models that came with Carousel"
    with stage.panes([title], [PROMPT], tokens=TOKENS) as panes:
        tokens = client.generate(MODEL, PROMPT, max_tokens=TOKENS, temperature=TEMPERATURE, seed=1)
        for token in tokens:
            panes.add(0, token.text)


def documentation() -> str:
    """The help texts of Python's topics, which every Python brings along."""
    topics: dict[str, str] = pydoc_data.topics.topics
    return "\n\n".join(text for _, text in sorted(topics.items()))
