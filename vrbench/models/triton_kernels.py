"""Small GPU kernels, for what takes PyTorch several passes over memory; Triton comes with PyTorch for CUDA.

Triton reads the kernels' source, annotations too, so that theirs are not typed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rotate(states, cosines, sines, tokens, heads, row_stride, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0).to(tl.int64)  # of all rows
    lane = tl.arange(0, HALF)
    table = token // tokens * row_stride + token % tokens * 2 * HALF + lane
    cosine, sine = tl.load(cosines + table).to(tl.float32), tl.load(sines + table).to(tl.float32)
    for head in range(heads):
        place = states + (token * heads + head) * 2 * HALF + lane
        first, second = tl.load(place).to(tl.float32), tl.load(place + HALF).to(tl.float32)
        tl.store(place, (first * cosine - second * sine).to(states.dtype.element_ty))
        tl.store(place + HALF, (second * cosine + first * sine).to(states.dtype.element_ty))


@triton.jit
def _merge(own, own_lse, shared, shared_lse, tokens, heads, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    for head in range(heads):
        difference = tl.load(own_lse + head * tokens + token) - tl.load(shared_lse + head * tokens + token)
        weight = tl.where(difference == float("-inf"), 0.0, 1 / (1 + tl.exp(difference)))
        place = (token * heads + head) * WIDTH + lane
        first, second = tl.load(own + place).to(tl.float32), tl.load(shared + place).to(tl.float32)
        tl.store(own + place, (first + weight * (second - first)).to(own.dtype.element_ty))


def rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> None:
    """Rotate heads by their tokens' positions in place (RoPE, in the order of halves).

    Args:
        states: [rows, tokens, heads, width], contiguous; the width is twice a power of two.
        cosines, sines: [rows, tokens, width] or [1, tokens, width], both halves alike.
    """
    rows, tokens, heads, width = states.shape
    row_stride = 0 if len(cosines) == 1 else tokens * width
    with torch.cuda.device(states.device):
        _rotate[(rows * tokens,)](
            states, cosines.contiguous(), sines.contiguous(), tokens, heads, row_stride, HALF=width // 2, num_warps=1
        )  # fmt: skip


def merge(own: torch.Tensor, own_lse: torch.Tensor, shared: torch.Tensor, shared_lse: torch.Tensor) -> None:
    """Make of attention over two sets of keys, in place of the first, that over both.

    Args:
        own, shared: [tokens, heads, width], contiguous.
        own_lse, shared_lse: [heads, tokens], contiguous logarithms of the sums of exponentials; the latter infinite
            where there are no keys.
    """
    tokens, heads, width = own.shape
    with torch.cuda.device(own.device):
        _merge[(tokens,)](own, own_lse, shared, shared_lse, tokens, heads, WIDTH=width, num_warps=1)
