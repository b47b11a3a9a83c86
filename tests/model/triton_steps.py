"""Steps with the Triton gates in Triton's interpreter, against the reference cells in float64.

Run with TRITON_INTERPRET=1, which must be set before the kernels are made; prints, by case, how far
the new rows are off, as a share of the largest number.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from carousel.model import Features, Linear, ModelConfig, Network
from carousel.model.config import Cell
from carousel.model.kernels.fused import Fused, Half
from carousel.model.kernels.gates import TORCH
from carousel.model.kernels.triton_gates import BLOCK, TRITON

B, D = 3, 3
CELLS: tuple[Cell, ...] = ("lstm", "gru")


def distance(given: Tensor, wanted: Tensor) -> float:
    return float((given - wanted).abs().max() / wanted.abs().max())


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    found: dict[str, float] = {}
    for cell in CELLS:
        for hidden in (7, BLOCK + 41):  # part of a block, and more than one
            config = ModelConfig(
                cell=cell, layers=2, hidden_size=hidden, input=Features(D), head=Linear(2)
            )
            network = Network(config).eval()
            x, rows = torch.randn(B, D), torch.randn(B, network.schema.width)
            _, new = Fused(network, gates=TRITON).step(x, rows)
            _, rough = Half(network, gates=TRITON).step(x, rows)
            _, same = Half(network, gates=TORCH).step(x, rows)
            _, wanted = network.double()(x[:, None].double(), rows.double())
            found[f"{cell} {hidden} float32"] = distance(new, wanted)
            found[f"{cell} {hidden} bfloat16"] = distance(rough, wanted)
            found[f"{cell} {hidden} bfloat16 as in torch"] = distance(rough, same)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
