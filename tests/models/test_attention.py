"""Attention with grouped heads is that with repeated keys and values; only models on a GPU in 16 bits get it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.tiny import llava
from vrbench.models import attention, components


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(("heads", "groups", "queries"), [(8, 2, 5), (8, 2, 1), (4, 4, 5), (4, 4, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_grouped_attention_is_that_of_repeated_keys(
    monkeypatch: pytest.MonkeyPatch, heads: int, groups: int, queries: int, masked: bool, prepared: bool
) -> None:
    monkeypatch.setattr(attention, "_prepared_shapes", prepared)
    torch.manual_seed(0)
    keys = 11 if masked or queries == 1 else queries
    query, key, value = torch.randn(3, heads, queries, 16), *torch.randn(2, 3, groups, keys, 16)
    mask = None
    if masked:
        mask = torch.zeros(3, 1, queries, keys).masked_fill_(torch.rand(3, 1, queries, keys) < 0.4, -1e9)
    ours, _ = attention._attend(SimpleNamespace(), query, key, value, mask, scaling=0.3)
    repeated = (kept.repeat_interleave(heads // groups, 1) for kept in (key, value))
    theirs = scaled_dot_product_attention(
        query, *repeated, attn_mask=mask, scale=0.3, is_causal=not masked and queries > 1
    )
    assert torch.allclose(ours, theirs.transpose(1, 2), atol=1e-5)


def test_a_model_on_a_cpu_is_left_as_it_is() -> None:
    decoder = components.decoder(llava())
    attention.use_fast_kernels(decoder, torch.device("cpu"))
    assert decoder.config._attn_implementation == "sdpa"
    assert not any("forward" in vars(module) for module in decoder.modules())


def test_the_norm_in_one_kernel_is_that_of_transformers() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(32)
    torch.nn.init.normal_(norm.weight)
    hidden = torch.randn(2, 5, 32)
    assert type(norm).__name__ in attention.RMS_NORMS
    assert torch.allclose(attention._FusedNorm(norm)(hidden), norm(hidden), atol=1e-6)


def test_any_layout_of_a_kernel_s_output_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory-efficient kernel returns [batch, queries, heads, width], transposed."""

    def transposed(*given: torch.Tensor, **settings: Any) -> torch.Tensor:
        out = scaled_dot_product_attention(*given, **settings)
        return out.transpose(1, 2).contiguous().transpose(1, 2)

    query, (key, value) = torch.randn(2, 4, 3, 16), torch.randn(2, 2, 2, 5, 16)
    mask = torch.zeros(2, 1, 3, 5)
    plain, _ = attention._attend(SimpleNamespace(), query, key, value, mask)
    monkeypatch.setattr(attention, "scaled_dot_product_attention", transposed)
    ours, _ = attention._attend(SimpleNamespace(), query, key, value, mask)
    assert torch.equal(ours, plain)
