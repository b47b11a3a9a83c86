"""Sampling follows the distribution it says it does, and text survives the tokenizer."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.model import (
    Characters,
    SamplingError,
    SamplingOptions,
    TokenizerError,
    sample,
    skip,
)

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], dtype=np.float32))


def draws(n: int = 4000, history: tuple[int, ...] = (), **options: Any) -> list[float]:
    given = SamplingOptions(seed=5, **options)
    rng = given.generator()
    counts = np.zeros(4)
    for _ in range(n):
        counts[sample(LOGITS, given, history, rng)[0]] += 1
    return list(counts / n)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_k": 9}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.51}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 1e-30}, [1, 0, 0, 0]),
        # Logits are negative here, so a penalty of 2 squares the probability of token 0.
        ({"repetition_penalty": 2.0, "history": (0, 0)}, [1 / 3, 1 / 3, 0.2, 0.4 / 3]),
    ],
    ids=str,
)
def test_frequencies_are_those_of_the_options(options: dict[str, Any], wanted: list[float]) -> None:
    np.testing.assert_allclose(draws(**options), wanted, atol=0.03)


@given(
    logits=st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=30),
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 40),
    top_p=st.floats(1e-9, 1),
    penalty=st.floats(1, 100),
)
def test_any_options_give_a_token_and_its_own_probability(
    logits: list[float], temperature: float, top_k: int, top_p: float, penalty: float
) -> None:
    options = SamplingOptions(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty, seed=1
    )
    token, logprob = sample(np.array(logits), options, [0], options.generator())
    wanted = logits[token] - math.log(math.fsum(math.exp(v) for v in logits))
    assert logprob == pytest.approx(wanted, abs=1e-9)


def test_same_seed_draws_the_same_tokens() -> None:
    options = SamplingOptions(seed=11)
    runs = []
    for _ in range(2):
        rng = options.generator()
        runs.append([sample(LOGITS, options, [], rng) for _ in range(20)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be a number from 0 to 100, got -1"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": "hot"}, "temperature must be a number from 0 to 100, got 'hot'"),
        ({"top_p": 0}, "top_p must be"),
        ({"top_p": 1.1}, "top_p must be a number from 1e-09 to 1, got 1.1"),
        ({"top_k": -1}, "top_k must be an integer of at least 0, got -1"),
        ({"top_k": 2.0}, "top_k must be an integer"),
        ({"repetition_penalty": 0.5}, "repetition_penalty must be"),
        ({"seed": -1}, "seed must be an integer from 0"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        SamplingOptions(**options)


@pytest.mark.parametrize("logits", [[], [0.0, math.nan], [math.inf], [[0.0]]])
def test_logits_that_are_not_finite_are_refused(logits: list[float]) -> None:
    with pytest.raises(SamplingError, match="logits must be a vector of finite numbers"):
        sample(np.array(logits), SamplingOptions(), [], np.random.default_rng())


@given(st.text(alphabet="abc \n", max_size=40))
def test_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = Characters("\n abc")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_characters_and_ids_are_named() -> None:
    tokenizer = Characters("abc")
    with pytest.raises(TokenizerError, match="character 'z' at position 1 is unknown"):
        tokenizer.encode("azb")
    with pytest.raises(TokenizerError, match="ids must be between 0 and 2, got 3"):
        tokenizer.decode([0, 3])
    with pytest.raises(TokenizerError, match="got -1"):
        tokenizer.decode([-1])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_who_skips_what_was_drawn_draws_what_follows(temperature: float) -> None:
    options = SamplingOptions(seed=5, temperature=temperature)
    rng, other = options.generator(), options.generator()
    whole = [sample(LOGITS, options, [], rng)[0] for _ in range(40)]
    skip(25, options, other)
    assert [sample(LOGITS, options, [], other)[0] for _ in range(15)] == whole[25:]
