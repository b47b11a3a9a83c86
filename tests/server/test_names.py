"""Resource names and page tokens: what is taken, what is refused."""

from __future__ import annotations

import tracemalloc
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.errors import InvalidField
from carousel.server import names
from carousel.server.names import ModelRef

ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
aliases = st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True)
numbers = st.integers(1, names.MAX_VERSION)


@given(ids, numbers, aliases)
def test_a_name_that_was_made_is_parsed_to_what_it_was_made_of(
    model: str, number: int, alias: str
) -> None:
    for ref in (ModelRef(model), ModelRef(model, version=number), ModelRef(model, alias=alias)):
        assert ModelRef.parse(str(ref)) == ref
    assert names.model_id(names.model_name(model)) == model
    assert names.model_version(names.version_name(model, number)) == (model, number)
    assert names.session_id(names.session_name(model)) == model


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "models/",
        "models/..",
        "models/../x",
        "/models/x",
        "models//x",
        "models/x/",
        "models/X",
        "models/-x",
        "models/x\n",
        "models/x\0",
        "models/ü",
        "models/" + "x" * 64,
        "models/x/versions/0",
        "models/x/versions/01",
        "models/x/versions/-1",
        "models/x/versions/٣",
        "models/x/versions/4294967296",
        "models/x/versions/9" + "9" * 10_000,
        "models/x/versions/1/more",
        "models/x/aliases/1st",
        "models/x/aliases/",
        "sessions/x",
    ],
)
def test_a_malformed_model_name_is_refused_with_its_field(name: str) -> None:
    with pytest.raises(InvalidField, match="must be models/") as refused:
        ModelRef.parse(name, field="model")
    assert refused.value.field == "model"
    assert len(refused.value.message) < 300


def test_the_longest_of_each_name_is_taken_and_one_more_is_not() -> None:
    longest = "z" * 63
    assert names.model_version(f"models/{longest}/versions/4294967295") == (longest, 2**32 - 1)
    assert ModelRef.parse(f"models/{longest}/aliases/{longest}", field="").alias == longest
    assert names.session_id(f"sessions/{longest}") == longest
    assert names.check_id(longest, field="") == names.check_alias(longest) == longest
    for wrong in (
        partial(names.model_id, f"models/{longest}z"),
        partial(names.session_id, f"sessions/{longest}z"),
        partial(names.check_id, f"{longest}z", field=""),
        partial(names.check_alias, f"{longest}z"),
        partial(ModelRef.parse, f"models/{longest}/aliases/{longest}z", field=""),
    ):
        with pytest.raises(InvalidField):
            wrong()


def test_a_name_of_a_million_slashes_is_refused_without_memory_for_its_parts() -> None:
    endless = "/" * 1_000_000
    tracemalloc.start()
    try:
        for read in (names.model_id, names.session_id, names.model_version, names.dataset_id):
            with pytest.raises(InvalidField) as refused:
                read(endless)
            assert len(refused.value.message) < 300
        assert tracemalloc.get_traced_memory()[1] < 1e6  # a list of the parts takes 8 MB
    finally:
        tracemalloc.stop()


def test_methods_that_need_a_model_or_a_version_take_nothing_else() -> None:
    with pytest.raises(InvalidField):
        names.model_id("models/x/versions/1")
    with pytest.raises(InvalidField):
        names.model_version("models/x")
    with pytest.raises(InvalidField):
        names.session_id("sessions/x/y")
    with pytest.raises(InvalidField, match="session_id"):
        names.check_id("No", field="session_id")
    with pytest.raises(InvalidField, match="alias"):
        names.check_alias("1st")


@given(ids)
def test_a_page_token_holds_its_key(key: str) -> None:
    assert names.page_key(names.page_token(key)) == key


@given(st.text(min_size=1, max_size=40))
def test_a_token_that_no_server_made_is_refused_and_nothing_worse(token: str) -> None:
    try:
        key = names.page_key(token)
    except InvalidField:
        return
    assert token == names.page_token(key)


@pytest.mark.parametrize("token", ["YR", "YQ==", "YQ\n", "Y Q", "Li4", "QQ", "A" * 10_000])
def test_a_token_that_almost_fits_is_refused(token: str) -> None:
    assert names.page_token("a") == "YQ"
    with pytest.raises(InvalidField):
        names.page_key(token)


def test_a_token_of_another_list_is_refused_where_numbers_are_keys() -> None:
    assert names.page_number("") == 0
    assert names.page_number(names.page_token("17")) == 17
    with pytest.raises(InvalidField):
        names.page_number(names.page_token("shakespeare"))


def test_page_sizes_have_a_default_and_a_limit() -> None:
    assert [names.page_size(n) for n in (0, 1, 1000, 1001)] == [50, 1, 1000, 1000]
