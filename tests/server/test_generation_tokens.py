"""Generation by models whose tokens are bytes or subwords: a character may take several tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import grpc
import pytest
import torch

from carousel.model import Bytes, ModelConfig, Network, Softmax, Subwords, Tokenizer, Tokens, save
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import model_service_pb2
from tests.conftest import running
from tests.processes import PATIENCE
from tests.server.contract import Wire, error_of

# No byte of it comes twice.
TEXT = "aé東ς "
TOKENIZERS: dict[str, Tokenizer] = {
    "bytes": Bytes(),
    "subwords": Subwords.learn([TEXT * 10], 258),
}


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server with models that write their text in a circle, whatever they read before."""
    store: Path = tmp_path_factory.mktemp("models")
    for name, tokenizer in TOKENIZERS.items():
        size = len(tokenizer)
        network = Network(
            ModelConfig(
                cell="rnn_relu",
                layers=1,
                hidden_size=size,
                input=Tokens(size, size),
                head=Softmax(size),
                tokenizer=tokenizer,
            )
        )
        ids = tokenizer.encode(TEXT)
        assert len(set(ids)) == len(ids)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            assert network.embedding is not None
            assert network.head is not None
            network.embedding.weight.copy_(torch.eye(size))
            network.weights(0).ih.copy_(torch.eye(size))
            for here, following in zip(ids, [*ids[1:], ids[0]], strict=True):
                network.head.weight[following, here] = 9.0
        save(store / name / "1", network)
    with running(store=store) as server, grpc.insecure_channel(server.target) as channel:
        yield Wire(channel)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_become_the_tokens_that_the_model_reads(wire: Wire, name: str) -> None:
    texts = [TEXT, "", "a"]
    request = model_service_pb2.TokenizeTextRequest(name=f"models/{name}", texts=texts)
    response = wire.models.TokenizeText(request)
    wanted = [TOKENIZERS[name].encode(text) for text in texts]
    assert list(response.lengths) == [len(tokens) for tokens in wanted]
    assert list(response.tokens) == [*chain(*wanted)]


@pytest.mark.parametrize(
    ("model", "texts", "reason"),
    [
        ("bytes", [], "INVALID_FIELD"),
        ("bytes", ["a" * 2**19, "a" * 2**19 + "a"], "MESSAGE_TOO_LARGE"),
        ("king-james", ["a", "\u6771"], "TOKEN_OUT_OF_RANGE"),
        ("sunspots", ["a"], "NO_TOKENIZER"),
        ("nowhere", ["a"], "MODEL_NOT_FOUND"),
    ],
)
def test_what_cannot_be_tokens_is_refused(
    wire: Wire, model: str, texts: list[str], reason: str
) -> None:
    request = model_service_pb2.TokenizeTextRequest(name=f"models/{model}", texts=texts)
    with pytest.raises(grpc.RpcError) as failure:
        wire.models.TokenizeText(request)
    assert error_of(failure.value).reason == reason


@pytest.mark.parametrize("name", TOKENIZERS)
def test_characters_are_whole_and_the_text_is_all_of_them(wire: Wire, name: str) -> None:
    count = len(TOKENIZERS[name].encode(TEXT))
    request = pb.GenerateRequest(
        model=f"models/{name}", text=TEXT, max_tokens=2 * count, temperature=0.0
    )
    texts = [response.text for response in wire.inference.Generate(request, timeout=PATIENCE)]
    assert "".join(texts) == 2 * TEXT
    assert len(texts) == 2 * count
    assert "" in texts


def test_a_character_that_stays_half_done_is_shown_as_such(wire: Wire) -> None:
    request = pb.GenerateRequest(model="models/bytes", text=TEXT, max_tokens=2, temperature=0.0)
    texts = [response.text for response in wire.inference.Generate(request, timeout=PATIENCE)]
    assert texts == ["a", "\ufffd"]


def test_a_stop_text_is_found_across_the_tokens_of_a_character(wire: Wire) -> None:
    request = pb.GenerateRequest(
        model="models/bytes", text=TEXT, max_tokens=50, temperature=0.0, stop=["東"]
    )
    responses = list(wire.inference.Generate(request, timeout=PATIENCE))
    assert "".join(response.text for response in responses) == "aé"
    assert responses[-1].finish_reason == pb.FINISH_REASON_STOP
