"""The kernels by name, and which one a device gets."""

import torch

from carousel.model.errors import ConfigError
from carousel.model.kernels.fused import Fused
from carousel.model.kernels.gatewise import Gatewise
from carousel.model.kernels.kernel import Kernel
from carousel.model.kernels.onnx import Onnx
from carousel.model.network import Network

KERNELS: dict[str, type[Gatewise] | type[Fused] | type[Onnx]] = {
    "gatewise": Gatewise,
    "fused": Fused,
    "onnx": Onnx,
}


def make_kernel(
    network: Network, device: str = "cpu", name: str | None = None, *, threads: int = 1
) -> Kernel:
    """The kernel of that name, or the fastest for the device: `onnx` on cpu, else `fused`.

    `threads` is for onnx; torch's own number of threads is the process's business.
    """
    name = name or ("onnx" if torch.device(device).type == "cpu" else "fused")
    network = network.eval()
    if name == "onnx":
        return Onnx(network, device, threads=threads)
    if name not in KERNELS:
        raise ConfigError(f"kernel must be one of {', '.join(KERNELS)}, got {name!r}")
    return KERNELS[name](network, device)
