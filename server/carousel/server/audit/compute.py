"""Past steps computed again: by the same kernel to the bit, or by the reference."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch

from carousel.errors import SnapshotMismatch
from carousel.model import PRECISIONS, Kernel, StepPrecision, make_kernel
from carousel.server.audit.head import Head
from carousel.server.loaded import LoadedVersion
from carousel.server.names import shown
from carousel.server.work import Floats, Inputs

Doubles = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.float32 | np.float64]

# How far a served number may lie from the reference in double precision, over the steps from one
# logged state to the next: docs/audit.md has what was measured.
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-2}
# From the same steps in 8 or 16 bits, where company may have rounded to the next number.
ROUGH_TOLERANCE = 5e-2


def precision_of(kernel: str) -> StepPrecision:
    """Kernels of another precision than float32 have its name."""
    for precision in PRECISIONS:
        if kernel == precision:
            return precision
    return "float32"


class Again:
    """Computes steps under the conditions of a head. Raises SnapshotMismatch when made."""

    def __init__(self, head: Head, version: LoadedVersion) -> None:
        if version.digest.hex() != head.digest:
            raise SnapshotMismatch(
                f"the log is of {shown(head.model)} with digest {head.digest[:12]}, the one in "
                f"service has {version.digest.hex()[:12]}"
            )
        self.head = head
        self._version = version
        kernel = head.kernel.split(",")[0]
        self._precision: StepPrecision = precision_of(kernel)
        is_rough = self._precision != "float32"
        self._by_kernel = head.bit_exact or is_rough
        self.tolerance = ROUGH_TOLERANCE if is_rough else TOLERANCE[head.device.split(":")[0]]
        if head.bit_exact:
            self.tolerance = 0.0
        if self._by_kernel:
            self._kernel = self._same_kernel()
        else:
            self._reference = copy.deepcopy(version.network).cpu().double().eval()

    def _same_kernel(self) -> Kernel:
        head, version = self.head, self._version
        if version.device.split(":")[0] != head.device.split(":")[0]:
            raise SnapshotMismatch(
                f"the log needs the same kernel, {head.kernel} on {head.device}; this server "
                f"computes on {version.device}"
            )
        if version.kernel.name == head.kernel:
            return version.kernel
        return make_kernel(
            version.network,
            version.device,
            None if self._precision != "float32" else head.kernel.split(",")[0],
            bit_exact=head.bit_exact,
            precision=self._precision,
        )

    def run(self, inputs: Inputs, row: Floats) -> tuple[Numbers, Numbers]:
        """Inputs [T, D] or [T] from a row [width] on: outputs [T, O] and the row after them.

        Of a bit-exact log float32, the very numbers; of int8 and 16 bits float32; else float64.
        """
        x, rows = torch.from_numpy(inputs.copy())[None], torch.from_numpy(row.copy())[None]
        with torch.no_grad():
            if not self._by_kernel:
                x = x if x.dtype == torch.int64 else x.double()
                outputs, rows = self._reference(x, rows.double())
            else:
                device = self._version.device
                lengths = torch.tensor([len(inputs)])
                outputs, rows = self._kernel.chunk(x.to(device), lengths, rows.to(device))
        return outputs[0].cpu().numpy(), rows[0].cpu().numpy()


def distances(found: Numbers, again: Numbers) -> Doubles:
    """The largest difference of each row [n, O]; of numbers above 1, as a share of the largest."""
    if not found.size:
        return np.zeros(len(found))
    gap = np.abs(found.astype(np.float64) - again).max(1)
    shares: Doubles = gap / np.maximum(np.abs(found).max(1), 1.0)
    return np.where(np.isnan(shares), np.inf, shares)
