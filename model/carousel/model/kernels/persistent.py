"""cuDNN's persistent kernel: whole sequences whose recurrent weights never leave the chip."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from carousel.model.config import ModelConfig
from carousel.model.network import Network, padding_mask

ROWS, MOST_ROWS = 8, 128  # of one call: a multiple, and at most


def is_persistent(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch takes cuDNN's persistent kernel for batches of `padded_rows`.

    These are the conditions of torch's notes at nn.LSTM and of `use_persist_common_heuristics` in
    aten/src/ATen/native/cudnn/RNN.cpp; which cards it leaves out, torch decides itself.
    """
    return (
        device.type == "cuda"
        and dtype == torch.float16
        and config.cell == "lstm"
        and config.layers == 1
        and not config.bidirectional
        and not config.projection
        and config.hidden_size <= 1024
        and config.hidden_size % 128 == 0
        and config.input_size % 128 == 0
    )


def padded_rows(rows: int) -> int:
    """Rows of a call for so many sequences, at most MOST_ROWS of them."""
    return -(-rows // ROWS) * ROWS


class Persistent:
    """Runs sequences from the initial state, in float16, in padded batches of a fitting size.

    Never packed: the network reads forward only, so what stands behind a sequence's end changes
    nothing before it, and is blanked.
    """

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self._network = network
        self._rnn = copy.deepcopy(network.rnn).to(dtype)
        self._rnn.flatten_parameters()
        self._dtype = dtype

    @classmethod
    def of(cls, network: Network, device: torch.device, dtype: torch.dtype) -> Persistent | None:
        return cls(network, dtype) if is_persistent(network.config, device, dtype) else None

    def __call__(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x [B, T, D] or [B, T], lengths [B] (1..T) -> y [B, T, O], zero in the padding."""
        parts = [slice(begin, begin + MOST_ROWS) for begin in range(0, len(x), MOST_ROWS)]
        return torch.cat([self._some(x[part], lengths[part]) for part in parts])

    def _some(self, x: Tensor, lengths: Tensor) -> Tensor:
        network, rows = self._network, padded_rows(len(x))
        mask = padding_mask(x, lengths)
        values = network.encode(x, mask).to(self._dtype)  # [B, T, D]
        padded = values.new_zeros((rows, *values.shape[1:]))
        padded[: len(x)] = values
        before = network.schema.split(network.initial_rows(rows))
        state = [v.transpose(0, 1).contiguous().to(self._dtype) for v in before.values()]
        hidden = self._rnn(padded, tuple(state))[0][: len(x)].float()  # [B, T, H]
        return network.decode(hidden, x, mask)
