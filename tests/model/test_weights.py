"""A model on disk comes back as it was, and anything else is refused with what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from carousel.model import ConfigError, Network, Tokens, WeightsError, digest, load, save
from carousel.model.weights import CONFIG, WEIGHTS

MakeNetwork = Callable[..., Network]


@pytest.fixture
def folder(tmp_path: Path, make_network: MakeNetwork) -> Path:
    save(tmp_path, make_network(learned_initial_state=True), card="# card\n")
    return tmp_path


def test_model_comes_back_as_it_was(folder: Path, make_network: MakeNetwork) -> None:
    before = torch.get_rng_state()
    network = load(folder)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    original = make_network(learned_initial_state=True)
    assert network.config == original.config
    for name, value in original.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    x = torch.randn(2, 3, 3)
    assert torch.equal(
        network(x, network.initial_rows(2))[0], original(x, original.initial_rows(2))[0]
    )
    assert (folder / "README.md").read_text() == "# card\n"
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", CONFIG, WEIGHTS]


def test_half_precision_is_widened(tmp_path: Path, make_network: MakeNetwork) -> None:
    network = make_network(input=Tokens(9, 4))
    save(tmp_path, network, dtype=torch.float16)
    for name, value in load(tmp_path).state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, network.state_dict()[name].half().float())


def test_digest_names_config_and_weights(folder: Path, tmp_path: Path) -> None:
    one = digest(folder)
    assert len(one) == 64
    assert digest(folder) == one
    (folder / "README.md").write_text("another card")
    assert digest(folder) == one
    for name in (CONFIG, WEIGHTS):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert digest(folder) != one
        (folder / name).write_bytes(content)
    (folder / CONFIG).unlink()
    with pytest.raises(WeightsError, match=r"config.json cannot be read"):
        digest(folder)


def edited(header: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return header | {"head.bias": header["head.bias"] | changes}


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Replace the header of the weights file and leave the data as it is."""
    content = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
    data = content[8 + length :]
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: edited(h, shape=[5]), r"head.bias must have shape \[4\], got \[5\]"),
        (lambda h: edited(h, shape=[2**40, 2**40]), r"head.bias must have shape \[4\]"),
        (lambda h: edited(h, dtype="F64"), "head.bias must be one of F32, F16, BF16, got 'F64'"),
        (lambda h: edited(h, dtype=["F32"]), "head.bias must be one of"),
        (lambda h: edited(h, data_offsets=[0, 2**50]), "head.bias must take 16 bytes"),
        (lambda h: edited(h, data_offsets=[-16, 0]), "head.bias must take 16 bytes"),
        (lambda h: edited(h, data_offsets="all"), "head.bias must take 16 bytes"),
        (lambda h: edited(h, data_offsets=[16, 32]), "overlap or leave gaps"),
        (lambda h: h | {"head.bias": 3}, "head.bias has a header that is not an object"),
        (lambda h: h | {"extra": h["head.bias"]}, "has an unknown tensor 'extra'"),
        (lambda h: {k: v for k, v in h.items() if k != "head.bias"}, "lacks tensor 'head.bias'"),
        (lambda h: [], "header that is not an object"),
    ],
)
def test_header_of_another_model_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(WeightsError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b[:-4], "truncated or has something appended"),
        (lambda b: b + b"\0", "truncated or has something appended"),
        (lambda b: b[:100], "not a safetensors file, or it is truncated"),
        (lambda b: b"", "not a safetensors file"),
        (lambda b: (2**63).to_bytes(8, "little") + b[8:], "not a safetensors file"),
        (lambda b: b[:8] + b"!" + b[9:], "header that is not JSON"),
        (lambda b: b[:8] + b"\xff" + b[9:], "header that is not JSON"),
        (lambda b: (50000).to_bytes(8, "little") + b"[" * 50000, "header that is not JSON"),
        (lambda b: b"PK\x03\x04" + b"\0" * 400, "header that is not JSON|not a safetensors"),
    ],
)
def test_spoilt_file_is_refused(
    folder: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    (folder / WEIGHTS).write_bytes(spoil((folder / WEIGHTS).read_bytes()))
    with pytest.raises(WeightsError, match=message):
        load(folder)


def test_every_truncation_is_refused(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    for size in range(0, len(content), 97):
        (folder / WEIGHTS).write_bytes(content[:size])
        with pytest.raises(WeightsError):
            load(folder)


def test_pickle_is_refused(folder: Path) -> None:
    torch.save({"head.bias": torch.zeros(4)}, folder / WEIGHTS)
    with pytest.raises(WeightsError):
        load(folder)


def test_weights_that_are_not_finite_are_refused(folder: Path, make_network: MakeNetwork) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["head.bias"][1] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(WeightsError, match=r"head.bias holds NaN or Inf"):
        load(folder)
    network = make_network()
    with torch.no_grad():
        network.weights(1).hh[0, 0] = 1e6  # too large for float16
    with pytest.raises(WeightsError, match=r"rnn.weight_hh_l1 holds NaN or Inf"):
        save(folder, network, dtype=torch.float16)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\ud800", '{"cell": NaN}'])
def test_config_that_is_not_one_is_refused(folder: Path, text: str) -> None:
    (folder / CONFIG).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError):
        load(folder)


def test_absent_files_are_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=r"weights.safetensors cannot be read: No such file"):
        load(folder)
    with pytest.raises(WeightsError, match=r"config.json cannot be read: No such file"):
        load(folder / "nowhere")
