"""DropConnect on the recurrent weights (AWD-LSTM, Merity et al. 2018): one mask for each window."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn


def dropping(rnn: nn.RNNBase, share: float) -> Any:
    """A context in which a share of the recurrent weights is zero; the gradient follows."""
    return _dropped(rnn, share) if share else nullcontext()


@contextmanager
def _dropped(rnn: nn.RNNBase, share: float) -> Iterator[None]:
    # torch's recurrent layers read this list and not the parameters, so the fast path stays.
    own = rnn._flat_weights
    names = rnn._flat_weights_names
    rnn._flat_weights = [
        nn.functional.dropout(getattr(rnn, name), share) if name.startswith("weight_hh") else weight
        for name, weight in zip(names, own, strict=True)
    ]
    try:
        with warnings.catch_warnings():
            # cuDNN copies weights that do not lie in one piece; these never do.
            warnings.filterwarnings("ignore", "RNN module weights are not part of single")
            yield
    finally:
        rnn._flat_weights = own
