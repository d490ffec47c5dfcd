"""Peak speed of GPUs in bfloat16, which a training's speed is compared with (no torch)."""

from __future__ import annotations

import re

PEAKS: dict[str, float] = {
    "B200": 2250, "H100 PCIe": 756, "H100 NVL": 835, "H200 NVL": 835, "H100": 989, "H200": 989, "GH200": 989,
    "A100": 312, "A40": 150, "A30": 165, "A10": 125, "L40S": 362, "L40": 181, "L4": 121, "RTX A6000": 155,
    "RTX 6000 Ada": 364, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip
"""Name in torch's name of the GPU -> dense bfloat16 TFLOP/s with float32 sums, from NVIDIA's data sheets.

Where a data sheet gives the figure with sparsity, half of it. The first name that is found counts.
"""


def peak_flops(device_name: str) -> float | None:
    """Return the peak of a GPU in FLOP/s, such as 9.89e14 for "NVIDIA H200"; None for one that is not listed."""
    found = (peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", device_name))
    peak = next(found, None)
    return None if peak is None else peak * 1e12
