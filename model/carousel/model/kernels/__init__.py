"""The kernels by name, and which one a device gets."""

from typing import Literal, get_args

import torch

from carousel.model.errors import ConfigError
from carousel.model.kernels.fused import HALVES, Fused, Half, check_half
from carousel.model.kernels.gatewise import Gatewise
from carousel.model.kernels.int8 import Int8, check_int8
from carousel.model.kernels.kernel import Kernel
from carousel.model.kernels.onnx import Onnx
from carousel.model.kernels.padded import Padded
from carousel.model.network import Network

__all__ = ["KERNELS", "PRECISIONS", "Kernel", "StepPrecision", "check_precision", "make_kernel"]

KERNELS: dict[str, type[Gatewise] | type[Fused] | type[Onnx]] = {
    "gatewise": Gatewise,
    "fused": Fused,
    "onnx": Onnx,
}

StepPrecision = Literal["float32", "int8", "bfloat16", "float16"]
PRECISIONS: tuple[StepPrecision, ...] = get_args(StepPrecision)

# Rows of every product in bit-exact mode: few enough that a lone step is not slow.
EXACT_BATCH = 16


def make_kernel(
    network: Network,
    device: str = "cpu",
    name: str | None = None,
    *,
    threads: int = 1,
    bit_exact: bool = False,
    precision: StepPrecision = "float32",
) -> Kernel:
    """The kernel of that name, or the fastest for the device: `onnx` on cpu, else `fused`.

    `threads` is for onnx; torch's own number of threads is the process's business. With `bit_exact`
    a row's numbers depend on nothing but the row: see `Padded`. Each precision but float32 has one
    kernel, of its own name. Raises ConfigError.
    """
    if bit_exact:
        kernel = make_kernel(network, device, name, threads=threads, precision=precision)
        return Padded(kernel, EXACT_BATCH, network.config.output_size)
    if precision == "int8":
        return Int8(network.eval(), device, threads=threads)
    if precision != "float32":
        return Half(network.eval(), device, precision)
    name = name or ("onnx" if torch.device(device).type == "cpu" else "fused")
    network = network.eval()
    if name == "onnx":
        return Onnx(network, device, threads=threads)
    if name not in KERNELS:
        raise ConfigError(f"kernel must be one of {', '.join(KERNELS)}, got {name!r}")
    return KERNELS[name](network, device)


def check_precision(network: Network, device: str, precision: StepPrecision) -> None:
    """Raises ConfigError where a network can't be computed so on that device."""
    if precision == "int8":
        check_int8(network.config, device)
    elif precision in HALVES:
        check_half(network, precision)
