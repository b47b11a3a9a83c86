"""The suites: which arms stand side by side, and which bar comes of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.bench import models
from tests.bench.audited import audit
from tests.bench.bench import Bench, Ratio, check, ratio
from tests.bench.closed_loop import Shape
from tests.bench.durability import durability
from tests.bench.fairness import fairness
from tests.bench.gpu import gpu
from tests.bench.models import HIDDEN, name_of
from tests.bench.sample import Sample
from tests.bench.sweep import TURN, sizes, sweep
from tests.bench.whole_sequences import sequences

SEQUENCES = 64
QUEUE = 65_536  # items of a tenant that may wait


def engine(bench: Bench) -> None:
    """The kernel alone against one core's SGEMM rate and onnxruntime's LSTM."""
    hiddens = (256, 512) if bench.brief else HIDDEN
    batches = (1, 32, 256) if bench.brief else (1, 8, 32, 64, 128, 256)
    products, peers = [], []
    for hidden in hiddens:
        for error in (
            bench.bare.ask("kernel_error", "lstm", hidden),
            bench.bare.ask("kernel_error", "gru", hidden),
            bench.bare.ask("onnx_lstm_error", hidden),
        ):
            assert error < 2e-5, error
        for batch in batches:
            facts = {"cell": "lstm", "hidden": hidden, "batch": batch}
            ours = bench.bare_arm("engine", "lstm", hidden, batch, name="engine")
            peer = bench.bare_arm("onnx_lstm", hidden, batch, name="onnx LSTM")
            arms = [ours, peer]
            if batch >= 32:
                arms += [
                    bench.bare_arm("products", hidden, batch, library, name=f"sgemm {library}")
                    for library in ("torch", "numpy")
                ]
            bench.compare("engine", arms, facts, seconds=0.1 if bench.brief else 0.25)
            peers.append(ratio(ours, peer).median)
            if batch >= 32:
                # The products of the peer arms leave the head out: count each arm's own work.
                own = models.step_flops("lstm", hidden)
                share = own / (own - 2 * hidden * models.OUTPUT)
                fastest = max(arms[2:], key=lambda arm: arm.rate)
                products.append(ratio(ours, fastest).median * share)
    bench.bar(
        "sgemm", _worst(products), f"the worst of {len(products)} shapes, H {hiddens}, B 32..256"
    )
    bench.bar("onnx", _worst(peers), f"the worst of {len(peers)} shapes, H {hiddens}, B 1..256")
    for hidden in hiddens:
        facts = {"cell": "gru", "hidden": hidden, "batch": 64}
        arm = bench.bare_arm("engine", "gru", hidden, 64, name="engine")
        bench.compare("engine", [arm], facts, seconds=0.1)


def precision(bench: Bench) -> None:
    """The kernel in 8 bits against itself in float32."""
    found: list[Ratio] = []
    for hidden in (512,) if bench.brief else HIDDEN:
        share = bench.bare.ask("int8_share", hidden)
        assert 0 < share < 0.05, share
        for batch in (1, 32, 256):
            facts = {"cell": "lstm", "hidden": hidden, "batch": batch}
            full = bench.bare_arm("engine", "lstm", hidden, batch, name="float32")
            small = bench.bare_arm("int8", hidden, batch, name="int8")
            bench.compare("precision", [full, small], facts, seconds=0.25)
            speed = ratio(small, full)
            bench.say(f"{'':>10} {speed.median:.2f} x, outputs off by at most {share:.2%}")
            if hidden == 512:
                found.append(speed)
    worst = min(found, key=lambda one: one.median)
    bench.bar("int8", worst, "the worst of B 1, 32 and 256")


def exact(bench: Bench) -> None:
    """What the same bits in any company cost: the kernel padded to one shape against itself."""
    for hidden in (256, 512):
        for what in ("engine", "slices"):
            for batch in (1, 16, 64, 256):
                facts = {"cell": "lstm", "hidden": hidden, "batch": batch}
                plain, padded = (
                    bench.bare_arm(
                        what, "lstm", hidden, batch, on, name=what + (", bit-exact" if on else "")
                    )
                    for on in (False, True)
                )
                bench.compare("exact", [plain, padded], facts, seconds=0.25)
                price = ratio(padded, plain)
                bench.say(f"{'':>10} {price.median:.2f} ({price.low:.2f} .. {price.high:.2f})")


def unary(bench: Bench) -> None:
    """64 plain unary callers."""
    facts = {"cell": "lstm", "hidden": 256, "sessions": 64}
    shape = Shape(64)
    null = bench.light("null", "lstm", 256, shape)
    ours = bench.light("real", "lstm", 256, shape, "unary")
    plain = bench.light("aio", "lstm", 256, shape, "null grpc.aio")
    naive = bench.light("naive", "lstm", 256, shape)
    bench.compare("unary", [null, ours, plain, naive], facts)
    bench.bar("unary", ratio(ours, null))
    bench.bar("callers", ratio(ours, plain))


def alone(bench: Bench) -> None:
    """One session and nobody else: its p50 against null and one step of the engine."""
    facts = {"cell": "lstm", "hidden": 256, "sessions": 1}
    null = bench.light("null", "lstm", 256, Shape(1))
    ours = bench.light("real", "lstm", 256, Shape(1), "unary")
    step = bench.bare_arm("engine", "lstm", 256, 1, name="engine")
    bench.compare("alone", [null, ours, step], facts)
    p50s = [
        (_milliseconds(one, 50), _milliseconds(other, 50) + 1e3 / bare.rate)
        for one, other, bare in zip(ours.samples, null.samples, step.samples, strict=True)
    ]
    bench.bar("alone", Ratio.of([p50 / least for p50, least in p50s]))


def coalesced(bench: Bench) -> None:
    """AsyncClient against one call a step, and against the naive server."""
    facts = {"cell": "lstm", "hidden": 256, "sessions": 256}
    together = bench.coalesced("lstm", 256, 256)
    one_by_one = bench.user("real", "lstm", 256, 256, "unary, grpc.aio")
    bench.compare("coalesced", [together, one_by_one], facts)
    bench.bar("coalesced", ratio(together, one_by_one))
    bench.stop_servers()
    facts = {"cell": "lstm", "hidden": 512, "sessions": 64}
    together = bench.coalesced("lstm", 512, 64)
    naive = bench.user("naive", "lstm", 512, 64, "naive, grpc.aio")
    bench.compare("coalesced", [together, naive], facts)
    bench.bar("naive", ratio(together, naive))


def batch(bench: Bench) -> None:
    """Many sessions in a message against the engine's ceiling."""
    for cell in ("lstm",) if bench.brief else ("lstm", "gru"):
        facts = {"cell": cell, "hidden": 512, "batch": TURN}
        ceiling = bench.bare_arm("engine", cell, 512, TURN, name="engine")
        four = bench.light("real", cell, 512, Shape(1024, 256, 1), "256, 4 messages")
        one = bench.light("real", cell, 512, Shape(256, 256, 1), "256, 1 message")
        small = bench.light("real", cell, 512, Shape(1024, 64, 1), "64, 16 messages")
        bench.compare("batch", [ceiling, four, one, small], facts)
        if cell == "lstm":
            bench.bar("batch", ratio(four, ceiling), "4 messages on their way")
            bench.bar("batch-1", ratio(one, ceiling), "1 message on its way: not a bar")


def streams(bench: Bench) -> None:
    """256 plain streams, one session and one step a message, against naive batching."""
    facts = {"cell": "lstm", "hidden": 256, "sessions": 256}
    shape = Shape(256, 1, 256)
    null = bench.light("null", "lstm", 256, shape)
    ours = bench.light("real", "lstm", 256, shape, "streams")
    naive = bench.light("batching", "lstm", 256, shape, "naive, batching")
    bench.compare("streams", [null, ours, naive], facts)
    bench.bar("streams", ratio(ours, naive))


def predict(bench: Bench) -> None:
    """Whole sequences against bare nn.LSTM on one padded batch, with and without oneDNN."""
    worst: list[Ratio] = []
    for hidden in (256,) if bench.brief else (256, 512):
        name = name_of("lstm", hidden)
        facts = {
            "cell": "lstm",
            "hidden": hidden,
            "sequences": SEQUENCES,
            "steps": len(sequences(SEQUENCES)[0]),
        }
        ours = bench.looped("predict", name, SEQUENCES, 2, name="Predict")
        found = bench.client.ask("outputs", ours.key, 0, 0)
        truth = bench.bare.ask("reference_sequences", "lstm", hidden, SEQUENCES)
        check("Predict", found, truth)
        arms = [
            bench.bare_arm("sequences", "lstm", hidden, SEQUENCES, onednn, name=label)
            for onednn, label in ((True, "nn.LSTM, oneDNN"), (False, "nn.LSTM"))
        ]
        bench.compare("predict", [ours, *arms], facts)
        worst.append(ratio(ours, max(arms, key=lambda arm: arm.rate)))
        bench.stop_servers()
    bench.bar("predict", min(worst, key=lambda one: one.median), "the worse of the hidden sizes")


def mixed(bench: Bench) -> None:
    """W3: the p99 of single steps beside long requests, against the same without them."""
    name = name_of("lstm", 256)
    facts = {"cell": "lstm", "hidden": 256}
    server = bench.server("real", name)
    without = bench.looped("mixed", name, 58, 0, name="58 single")
    beside = bench.looped("mixed", name, 58, 6, name="58 single, 6 long")
    assert server is beside.server
    bench.compare("mixed", [without, beside], facts, seconds=bench.seconds * 2)
    pairs = zip(beside.samples, without.samples, strict=True)
    bench.bar(
        "mixed", Ratio.of([_milliseconds(one, 99) / _milliseconds(two, 99) for one, two in pairs])
    )


def open_loop(bench: Bench) -> None:
    """W2: whole sequences by a Poisson process at two loads."""
    name = name_of("lstm", 256)
    for rate in (100.0, 300.0):
        arm = bench.looped("open", name, rate, name=f"{rate:.0f} sequences/s")
        blocks = 2 if bench.brief else 5
        bench.compare(
            "open", [arm], {"cell": "lstm", "hidden": 256}, blocks=blocks, seconds=bench.seconds * 2
        )


def overload(bench: Bench) -> None:
    """Steps that arrive at the rate which can be served, and at three times that rate."""
    name = name_of("lstm", 256)
    blocks = 2 if bench.brief else 5
    for key, closed, opened in (
        ("overload", Shape(1024, 64, 16), Shape(QUEUE + 32_768, 64, 16)),
        ("overload-unary", Shape(64), Shape(65_536)),
    ):
        peak = bench.light("real", "lstm", 256, closed, "closed loop")
        peak.block(bench.seconds)
        rate = peak.block(bench.seconds).rate
        assert peak.server is not None
        pid = peak.server.pid
        arms = [peak] + [
            bench.looped("overload", name, opened, rate * times, pid, name=f"{times} x the rate")
            for times in (1, 3)
        ]
        facts = {"cell": "lstm", "hidden": 256, "sessions": opened.sessions}
        bench.compare("overload", arms, facts, blocks=blocks, seconds=bench.seconds * 2)
        # Of the server alone, in the time that counts: what the load takes is not in it.
        cpu = [float(np.median(arm.extra("counted_server_cpu_us"))) for arm in arms[1:]]
        note = f"{rate:,.0f} steps/s offered three times; server {cpu[0]:.0f} us a step at the rate"
        bench.bar(key, ratio(arms[2], peak), f"{note}, {cpu[1]:.0f} at three times it")
        bench.stop_servers()


def churn(bench: Bench) -> None:
    """W4: sessions opened and closed, ten times the batch live."""
    name = name_of("lstm", 256)
    arm = bench.looped("churn", name, TURN * 10, 32, name="open and close")
    bench.compare("churn", [arm], {"cell": "lstm", "hidden": 256, "sessions": TURN * 10})
    bench.bar("churn", Ratio.of([sample.rate / 1000 for sample in arm.samples]))


def _milliseconds(sample: Sample, percentile: float) -> float:
    return float(np.percentile(sample.latencies, percentile)) * 1e3


def _worst(values: list[float]) -> Ratio:
    """A bar over several shapes is met when the worst of them meets it."""
    return Ratio(min(values), min(values), max(values))


def ladder(bench: Bench) -> None:
    """Every way to step, from the slowest up."""
    from tests.bench.ladder import measure

    measure(bench)


def live(bench: Bench) -> None:
    """Steps beside idle sessions."""
    from tests.bench.scaling import live

    live(bench)


def chunks(bench: Bench) -> None:
    """Steps in chunks of many lengths."""
    from tests.bench.scaling import chunks

    chunks(bench)


def starting(bench: Bench) -> None:
    """The start of a server, and the import of the client."""
    from tests.bench.scaling import starting

    starting(bench)


def frontends(bench: Bench) -> None:
    """One process, and an engine's process with one and two front ends."""
    from tests.bench.front_ends import measure

    measure(bench)


def memory(bench: Bench) -> None:
    """100,000 idle sessions, and one session forked into 1,000."""
    from tests.bench.memory import measure

    measure(bench)


def beside(bench: Bench) -> None:
    """The p99 of the server while a training job runs, against the same while it rests."""
    from tests.bench.beside_training import measure

    measure(bench)


def metrics(bench: Bench) -> None:
    """A turn with its checks and metrics, against the same turn without."""
    from tests.bench.counted import measure

    measure(bench)


SUITES: dict[str, Callable[[Bench], None]] = {
    "engine": engine,
    "ladder": ladder,
    "precision": precision,
    "exact": exact,
    "gpu": gpu,
    "unary": unary,
    "alone": alone,
    "coalesced": coalesced,
    "batch": batch,
    "streams": streams,
    "frontends": frontends,
    "predict": predict,
    "mixed": mixed,
    "open": open_loop,
    "overload": overload,
    "fairness": fairness,
    "churn": churn,
    "beside": beside,
    "memory": memory,
    "live": live,
    "chunks": chunks,
    "starting": starting,
    "metrics": metrics,
    "durability": durability,
    "audit": audit,
    "sizes": sizes,
    "sweep": sweep,
}
# What a step goes through, without the panels and what stands beside it.
QUICK = ("engine", "unary", "alone", "coalesced", "batch", "streams")
