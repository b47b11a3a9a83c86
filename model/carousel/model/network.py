"""The network: embedding, recurrent layers, head; `forward` is the reference that is never fast.

Shapes: B batch, T time, D input, H hidden, P hidden after projection, L layers, O output.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from carousel.model.cells import STEPS, Gates, State, Weights, scan
from carousel.model.config import Linear, ModelConfig, NoHead, Normalization, Tokens
from carousel.model.errors import ConfigError
from carousel.model.schema import StateSchema

RNN = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything one sequence computed: gates[name] [T, L, H], outputs [T, O], rows [1, width]."""

    gates: dict[str, Tensor]
    outputs: Tensor
    rows: Tensor


class Network(nn.Module):
    """A model in memory; `state_dict()` names are the names in the weights file."""

    mean: Tensor
    std: Tensor
    output_mean: Tensor
    output_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.schema = StateSchema.of(config)
        self.embedding = (
            nn.Embedding(config.input.vocabulary, config.input.embedding)
            if isinstance(config.input, Tokens)
            else None
        )
        self.rnn = _layers(config)
        self.head = (
            None
            if isinstance(config.head, NoHead)
            else nn.Linear(config.state_size * config.directions, config.output_size)
        )
        learned = self.schema.tensors if config.learned_initial_state else ()
        self.initial = nn.ParameterDict({s.name: torch.zeros(s.shape) for s in learned})
        self._statistics("", config.normalization)
        self._statistics("output_", config.output_normalization)
        if config.cell == "lstm":
            self.set_forget_bias(1.0)

    def _statistics(self, prefix: str, given: Normalization | None) -> None:
        # They live in the config, so they are not in the weights file; always on a real device,
        # since a network under torch.device("meta") gets its weights later, but never these.
        if given is not None:
            mean, std = (torch.tensor(v, device="cpu") for v in (given.mean, given.std))
            self.register_buffer(prefix + "mean", mean, persistent=False)
            self.register_buffer(prefix + "std", std, persistent=False)

    def set_forget_bias(self, value: float) -> None:
        """Start every LSTM cell remembering: with a bias of 0 half of the state is lost a step.

        (Gers et al. 2000; Jozefowicz et al. 2015.) torch adds two biases; one takes the value.
        """
        hidden = self.config.hidden_size
        with torch.no_grad():
            for name, parameter in self.rnn.named_parameters():
                if name.startswith("bias_"):
                    parameter[hidden : 2 * hidden] = value if name.startswith("bias_ih") else 0.0

    def set_chrono_bias(self, steps: int, generator: torch.Generator | None = None) -> None:
        """Spread the LSTM's memories over lengths of up to `steps` (chrono initialisation).

        Each unit gets b_f = log u with u from U[1, steps - 1], and b_i = -b_f, so that it forgets
        at a rate of about 1 / u a step (Tallec & Ollivier 2018, eq. 16). steps is at least 2.
        """
        if self.config.cell != "lstm":
            raise ConfigError(f"chrono initialisation is for lstm only, got {self.config.cell}")
        if steps < 2:
            raise ConfigError(f"steps of chrono initialisation must be at least 2, got {steps}")
        hidden = self.config.hidden_size
        with torch.no_grad():
            for name, parameter in self.rnn.named_parameters():
                if name.startswith("bias_ih"):
                    u = 1 + (steps - 2) * torch.rand(hidden, generator=generator)
                    parameter[hidden : 2 * hidden] = torch.log(u)
                    parameter[:hidden] = -torch.log(u)
                elif name.startswith("bias_hh"):
                    parameter[: 2 * hidden] = 0.0

    def weights(self, layer: int, backward: bool = False) -> Weights:
        """The weights of one layer in one direction."""
        suffix = f"_l{layer}" + ("_reverse" if backward else "")
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        if self.config.projection:
            names.append("weight_hr")
        return Weights(*(getattr(self.rnn, name + suffix) for name in names))

    def initial_rows(self, n: int) -> Tensor:
        """Rows [n, width] of n new sessions: zero, or the learned initial state."""
        if self.config.learned_initial_state:
            one = self.schema.join({name: v[None] for name, v in self.initial.items()})
            return one.repeat(n, 1)
        weight = self.weights(0).ih
        return torch.zeros(n, self.schema.width, dtype=weight.dtype, device=weight.device)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the first layer reads [.., D], of features [.., D] or tokens [..].

        Padding is blanked first, so that not even a NaN there can do anything.
        """
        if mask is not None:
            x = x.masked_fill(~(mask if x.dim() == mask.dim() else mask[..., None]), 0)
        if self.embedding is not None:
            return self.embedding(x)  # type: ignore[no-any-return]
        return (x - self.mean) / self.std if self.config.normalization else x

    def decode(self, hidden: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The outputs [.., O] of the last layer's hidden states [.., P]; zero in the padding.

        x is what the network read, for a head with a residual.
        """
        y = hidden if self.head is None else self.head(hidden)
        if self.config.output_normalization:
            y = y * self.output_std + self.output_mean
        if isinstance(self.config.head, Linear) and (residual := self.config.head.residual):
            times = self.config.head.size // residual
            y = y + x[..., :residual].repeat(*[1] * (x.dim() - 1), times)
        return y if mask is None else torch.where(mask[..., None], y, torch.zeros_like(y))

    def forward(
        self, x: Tensor, rows: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, D] or tokens [B, T], rows [B, width] -> y [B, T, O] and the rows after it.

        With lengths [B] (1..T) the outputs from each row's length on are zero, and its new row is
        the state after its own last real step.
        """
        y, rows, _ = self.unroll(x, rows, lengths)
        return y, rows

    def trace(self, x: Tensor, rows: Tensor) -> Trace:
        """Every gate of one sequence: x [T, D] or tokens [T], rows [1, width]."""
        y, rows, gates = self.unroll(x[None], rows.reshape(1, -1), None)
        return Trace({name: v[0] for name, v in stack_gates(gates).items()}, y[0], rows)

    def unroll(
        self, x: Tensor, rows: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, list[list[Gates]]]:
        """As `forward`, with the gates of every step of every layer (and direction) in turn."""
        config, mask = self.config, None if lengths is None else padding_mask(x, lengths)
        before = self.schema.split(rows)
        after: list[State] = []
        seen: list[list[Gates]] = []
        values = self.encode(x, mask)  # [B, T, D]
        for layer in range(config.layers):
            if layer:
                values = nn.functional.dropout(values, config.dropout, self.training)
            hidden = []
            for backward in (False, True)[: config.directions]:
                state = {name: v[:, len(after)] for name, v in before.items()}
                weights = self.weights(layer, backward)
                h, state, gates = scan(STEPS[config.cell], values, state, weights, mask, backward)
                hidden.append(h)
                after.append(state)
                seen.append(gates)
            values = torch.cat(hidden, dim=2)  # [B, T, P], or [B, T, 2 P]
        stacked = {name: torch.stack([s[name] for s in after], dim=1) for name in before}
        return self.decode(values, x, mask), self.schema.join(stacked), seen

    def forward_fused(
        self, x: Tensor, rows: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, through torch's own recurrent layers: for training and whole sequences."""
        mask = None if lengths is None else padding_mask(x, lengths)
        values = self.encode(x, mask)  # [B, T, D]
        parts = [v.transpose(0, 1).contiguous() for v in self.schema.split(rows).values()]
        state = parts[0] if len(parts) == 1 else tuple(parts)  # [L, B, H] each
        if lengths is None and self.config.projection:
            # Packed or not is the same here, but not packed torch warns that oneDNN cannot do it.
            lengths = torch.full((len(x),), x.shape[1])
        if lengths is None:
            hidden, state = self.rnn(values, state)
        else:
            packed = pack_padded_sequence(values, lengths.cpu(), True, enforce_sorted=False)
            packed, state = self.rnn(packed, state)
            hidden, _ = pad_packed_sequence(packed, True, total_length=x.shape[1])
        tensors = (state,) if isinstance(state, Tensor) else state
        named = {
            s.name: v.transpose(0, 1) for s, v in zip(self.schema.tensors, tensors, strict=True)
        }
        return self.decode(hidden, x, mask), self.schema.join(named)


def padding_mask(x: Tensor, lengths: Tensor) -> Tensor:
    """True [B, T] at the real steps of x [B, T, ..]."""
    return torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]


def stack_gates(seen: list[list[Gates]]) -> dict[str, Tensor]:
    """What `unroll` saw, of one direction: by name [B, T, L, H]."""
    return {
        name: torch.stack(
            [torch.stack([step[name] for step in layer], dim=1) for layer in seen], dim=2
        )
        for name in seen[0][0]
    }


def _layers(config: ModelConfig) -> nn.RNNBase:
    options: dict[str, object] = {}
    if config.cell.startswith("rnn_"):
        options["nonlinearity"] = config.cell.removeprefix("rnn_")
    if config.projection:
        options["proj_size"] = config.projection
    layers: nn.RNNBase = RNN[config.cell](
        config.input_size,
        config.hidden_size,
        config.layers,
        batch_first=True,
        dropout=config.dropout,
        bidirectional=config.bidirectional,
        **options,
    )
    return layers
