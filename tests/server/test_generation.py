"""Generation, whole sequences and traces; spoken without the client library."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import torch

from carousel import tensors
from carousel.model import load
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_service_pb2
from tests.conftest import RunningServer
from tests.processes import PATIENCE
from tests.server.contract import Wire, error_of

TEXT = "In the beginning "


@pytest.fixture
def wire(channel: grpc.Channel) -> Wire:
    return Wire(channel)


def generate(wire: Wire, **fields: object) -> list[pb.GenerateResponse]:
    return list(wire.inference.Generate(pb.GenerateRequest(**fields), timeout=PATIENCE))  # type: ignore[arg-type]


def text_of(responses: list[pb.GenerateResponse]) -> str:
    return "".join(response.text for response in responses)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(wire: Wire) -> None:
    def once(seed: int) -> str:
        return text_of(
            generate(wire, model="models/king-james", text=TEXT, max_tokens=40, seed=seed)
        )

    assert once(3) == once(3)
    assert once(3) != once(4)


def test_greedy_tokens_are_the_likeliest_of_the_reference(
    server: RunningServer, wire: Wire
) -> None:
    ids = [1, 2, 3]
    responses = generate(
        wire,
        model="models/letters",
        tokens=pb.TokenList(ids=ids),
        max_tokens=8,
        temperature=0.0,
        log_probabilities=3,
    )
    network = load(server.settings.store / "letters" / "1").double().eval()
    fed = list(ids)
    for response in responses:
        with torch.no_grad():
            y, _ = network(torch.tensor([fed]), network.initial_rows(1))
        likely = torch.log_softmax(y[0, -1], 0)
        assert response.token == int(likely.argmax())
        assert response.log_probability == pytest.approx(float(likely.max()), abs=1e-5)
        assert [entry.token for entry in response.top] == likely.argsort(descending=True)[
            :3
        ].tolist()
        fed.append(response.token)
    assert responses[-1].finish_reason == pb.FINISH_REASON_LENGTH
    assert responses[-1].prompt_tokens == 3
    assert responses[-1].generated_tokens == len(responses) == 8


def test_a_session_remembers_what_was_said_and_goes_on_without_a_prompt(wire: Wire) -> None:
    session = wire.create("models/king-james")
    first = generate(wire, handle=session.handle, text=TEXT, max_tokens=10, temperature=0.0)
    second = generate(wire, handle=session.handle, max_tokens=10, temperature=0.0)
    whole = generate(wire, model="models/king-james", text=TEXT, max_tokens=20, temperature=0.0)
    assert text_of(first) + text_of(second) == text_of(whole)
    assert second[-1].step_index == len(TEXT) + 20


def test_a_stop_text_ends_it_and_stays_out(wire: Wire) -> None:
    fields = {"model": "models/king-james", "text": TEXT, "temperature": 0.0, "max_tokens": 120}
    whole = text_of(generate(wire, **fields))
    stop = whole[30:35]
    stopped = generate(wire, **fields, stop=["never this", stop])
    assert text_of(stopped) == whole[: whole.index(stop)]
    assert stopped[-1].finish_reason == pb.FINISH_REASON_STOP


def test_generation_stops_when_the_caller_goes_away(wire: Wire) -> None:
    session = wire.create("models/king-james")
    call = wire.inference.Generate(
        pb.GenerateRequest(handle=session.handle, text=TEXT, max_tokens=4000)
    )
    next(iter(call))
    call.cancel()
    get = session_service_pb2.GetSessionRequest(name=session.name)
    seen = [-1, wire.sessions.GetSession(get).step_index]
    while seen[-1] != seen[-2]:
        seen.append([wire.sessions.GetSession(get).step_index for _ in range(20)][-1])
    assert seen[-1] < 4000


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("temperature", 101.0),
        ("top_p", 1.5),
        ("repetition_penalty", 0.5),
        ("max_tokens", 10**6),
        ("log_probabilities", 21),
        ("stop", ["", "x"]),
    ],
)
def test_what_is_wrong_with_an_option_is_said_with_its_field(
    wire: Wire, field: str, given: object
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        generate(wire, model="models/king-james", text="a", **{field: given})
    error = error_of(failure.value)
    assert (error.reason, error.field) == ("INVALID_FIELD", field)
    assert error.message.startswith(f"{field} must ")
    assert str(given) in error.message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": "models/tiny", "tokens": pb.TokenList(ids=[1])}, "NOT_GENERATIVE"),
        ({"model": "models/letters", "text": "abc"}, "NO_TOKENIZER"),
        ({"model": "models/letters", "tokens": pb.TokenList(ids=[11])}, "TOKEN_OUT_OF_RANGE"),
        ({"model": "models/king-james", "text": "\u2603"}, "TOKEN_OUT_OF_RANGE"),
        ({"model": "models/king-james"}, "INVALID_FIELD"),
        ({"model": "models/king-james", "text": "a", "temperature": -1.0}, "INVALID_FIELD"),
        ({"model": "models/king-james", "text": "a", "top_p": 0.0}, "INVALID_FIELD"),
        ({"model": "models/king-james", "text": "a", "max_tokens": 10**6}, "INVALID_FIELD"),
        ({"model": "models/king-james", "text": "a", "stop": [""]}, "INVALID_FIELD"),
        ({"handle": 77 << 24, "text": "a"}, "SESSION_NOT_FOUND"),
        ({"text": "a"}, "INVALID_FIELD"),
    ],
)
def test_bad_requests_are_refused(wire: Wire, fields: dict[str, object], reason: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        generate(wire, **fields)
    assert error_of(failure.value).reason == reason


@pytest.mark.parametrize("model", ["tiny", "both-ways"])
def test_predict_equals_the_reference_for_sequences_of_any_length(
    server: RunningServer, wire: Wire, model: str
) -> None:
    rng = np.random.default_rng(5)
    lengths = [7, 1, 40, 3]
    inputs = rng.standard_normal((sum(lengths), 3)).astype(np.float32)
    request = pb.PredictRequest(
        model=f"models/{model}", lengths=lengths, inputs=tensors.encode(inputs)
    )
    got = tensors.decode(wire.inference.Predict(request).outputs)
    request.output_mode = pb.OUTPUT_MODE_LAST
    last = tensors.decode(wire.inference.Predict(request).outputs)
    network = load(server.settings.store / model / "1").double().eval()
    begin = 0
    for number, length in enumerate(lengths):
        sequence = torch.from_numpy(inputs[begin : begin + length]).double()[None]
        with torch.no_grad():
            y, _ = network(sequence, network.initial_rows(1))
        np.testing.assert_allclose(got[begin : begin + length], y[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last[number], y[0, -1], rtol=1e-5, atol=1e-6)
        begin += length


def test_trace_shows_every_gate_and_moves_nothing(server: RunningServer, wire: Wire) -> None:
    session = wire.create()
    inputs = np.random.default_rng(6).standard_normal((5, 3)).astype(np.float32)
    request = pb.TraceRequest(session=session.name, inputs=tensors.encode(inputs))
    trace = wire.inference.Trace(request)
    assert len(trace.layers) == 2
    for layer in trace.layers:
        values = {entry.name: tensors.decode(entry.tensor) for entry in layer.values}
        assert set(values) == {"input", "forget", "candidate", "output", "cell", "hidden"}
        before = np.concatenate([np.zeros((1, 8), np.float32), values["cell"][:-1]])
        cell = values["forget"] * before + values["input"] * values["candidate"]
        np.testing.assert_allclose(values["cell"], cell, rtol=1e-5, atol=1e-6)
        hidden = values["output"] * np.tanh(values["cell"])
        np.testing.assert_allclose(values["hidden"], hidden, rtol=1e-5, atol=1e-6)
    stepped = wire.outputs([session.handle], [0], inputs, [5])
    np.testing.assert_allclose(tensors.decode(trace.outputs), stepped, rtol=1e-5, atol=1e-6)


def test_going_on_at_another_step_than_the_next_is_a_conflict(wire: Wire) -> None:
    session = wire.create("models/king-james")
    generate(wire, handle=session.handle, text=TEXT, max_tokens=3, temperature=0.0)
    index = len(TEXT) + 3
    fields = {"handle": session.handle, "step_index": index, "max_tokens": 1, "temperature": 0.0}
    generate(wire, **fields)
    with pytest.raises(grpc.RpcError) as failure:
        generate(wire, **fields, top_k=2)
    error = error_of(failure.value)
    assert error.reason == "STEP_CONFLICT"
    assert error.metadata["expected_step"] == str(index + 1)
