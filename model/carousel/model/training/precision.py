"""Which numbers a device can compute in."""

from functools import cache

import torch

from carousel.model.errors import ConfigError

CPU = torch.device("cpu")


def check_precision(precision: str, device: torch.device = CPU) -> None:
    """Raise ConfigError when a device can't learn in a recipe's precision."""
    if precision == "bfloat16" and not has_bfloat16(device):
        raise ConfigError(
            f"precision must be float32 here, got bfloat16: this machine's {device.type} has no "
            "instructions for it"
        )


@cache
def has_bfloat16(device: torch.device = CPU) -> bool:
    """Whether recurrent layers run in bfloat16.

    Without AVX-512 oneDNN has no such LSTM. The ways around it are no way to learn: 4 to 9 times
    as slow as float32 (docs/decisions.md).
    """
    network = torch.nn.LSTM(1, 1).to(device)
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            network(torch.zeros(1, 1, 1, device=device))
    except RuntimeError:
        return False
    return True
