"""The suite `gpu`: turns of the engine on a GPU, and what makes them fast, one thing at a time."""

from __future__ import annotations

from tests.bench.bench import Bench, Ratio

BAR_BATCH = 512  # of the turn on a GPU
ARMS = (
    *("turn", "turns", "eager", "eager, gates in torch", "graph", "graph, gates in torch"),
    "copies",
)


def gpu(bench: Bench) -> None:
    """Turns on a GPU by batch and precision; graphs, the gates' kernel and copies by themselves."""
    name = bench.bare.ask("gpu_name")
    if not name:
        bench.say(f"{'gpu':>10} no CUDA device: nothing was measured")
        return
    bench.say(f"{'gpu':>10} {name}; bfloat16 unless another is named")
    for precision, most in (("float32", 1e-5), ("bfloat16", 5e-2), ("float16", 6e-3)):
        error = bench.bare.ask("gpu_error", precision, 64, 1024)
        assert error < most, error
        for batch in (8, BAR_BATCH) if bench.brief else (8, 32, 128, 256, BAR_BATCH):
            whats = ARMS if precision == "bfloat16" else ARMS[:2]
            arms = [
                bench.bare_arm("gpu", what, precision, batch, 1024, name=what) for what in whats
            ]
            facts = {"cell": "lstm", "hidden": 1024, "batch": batch, "precision": precision}
            bench.compare("gpu", arms, facts, seconds=0.25)
            turns = Ratio.of([1e6 * batch / sample.rate for sample in arms[1].samples])
            bench.say(f"{'':>10} {precision}, B {batch}: {turns.median:.1f} us a turn")
            if (precision, batch) == ("bfloat16", BAR_BATCH):
                bench.bar("gpu", turns, f"{name}, one layer, one turn behind the other")
