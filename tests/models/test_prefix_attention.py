"""Attention over segments is attention with masks; plain functions of the same form stand in for its GPU kernels.

The kernels themselves run on a GPU alone: there the last test compares them with those functions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.models.test_prefix_sharing import on
from tests.tiny import llava, tokenizer
from vrbench.models import attention, prefix_attention
from vrbench.models.decoding import StopCriteria
from vrbench.models.generation import AnswerGenerator
from vrbench.models.llava_model import LlavaModel
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.packed_inference import LogLikelihoods
from vrbench.models.packing import pack_with_prefixes
from vrbench.models.prefix_attention import Segments
from vrbench.models.prompt_reading import PackedPrompts


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor,
    most_queries: int, most_keys: int, scale: float, causal: bool = False, used: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """A mock of `varlen_attention`, segment by segment."""
    out, lse = torch.zeros_like(query), torch.full((query.shape[1], len(query)), torch.inf)
    for i in range(len(queries) - 1):
        mine = slice(int(queries[i]), int(queries[i + 1]))
        count = int(keys[i + 1] - keys[i]) if used is None else int(used[i])
        theirs = slice(int(keys[i]), int(keys[i]) + count)
        assert mine.stop - mine.start <= most_queries and count <= most_keys
        if count:
            repeat = query.shape[1] // key.shape[1]
            k, v = (kept[theirs].repeat_interleave(repeat, 1) for kept in (key, value))
            scores = torch.einsum("qhd,khd->hqk", query[mine], k) * scale
            if causal:
                scores.masked_fill_(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
            out[mine] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
            lse[:, mine] = scores.logsumexp(-1)
    return out, lse


def plain_rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> None:
    """A mock of the kernel of that name."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    states.copy_(states * cosines[:, :, None] + turned * sines[:, :, None])


def plain_merge(own: torch.Tensor, own_lse: torch.Tensor, shared: torch.Tensor, shared_lse: torch.Tensor) -> None:
    """A mock of the kernel of that name."""
    weight = torch.sigmoid(shared_lse - own_lse).masked_fill(shared_lse == torch.inf, 0.0)
    own.add_(weight.T[:, :, None] * (shared - own))


KERNELS = SimpleNamespace(rotate=plain_rotate, merge=plain_merge)
BEGINNINGS = [list(range(40, 40 + n)) for n in (90, 75)]
PROMPTS = [
    *([*BEGINNINGS[0], *ends] for ends in ([7, 8, 9, 10], [5], [6, 7, 8, 5, 6, 7], [11, 12, 13])),
    *([*BEGINNINGS[1][::-1], *ends] for ends in ([7, 8], [9, 10, 11])),
    [*range(30, 65)],
]


def vlm(fused: bool) -> LlavaModel:
    loaded = LlavaModel(llava(), tokenizer(), None)
    if fused:
        attention._use_fused_attention(loaded.language_model)
    return loaded


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Plain kernels; returns the layers that they attended in."""
    attended: list[int] = []
    attend = prefix_attention.SegmentCache.attend

    def counted(self: Any, layer: int, *given: Any) -> torch.Tensor:
        attended.append(layer)
        return attend(self, layer, *given)

    monkeypatch.setitem(sys.modules, "vrbench.models.triton_kernels", KERNELS)
    monkeypatch.setattr(attention, "HAS_TRITON", True)
    monkeypatch.setattr(prefix_attention, "varlen_attention", plain_attention)
    monkeypatch.setattr(prefix_attention.SegmentCache, "attend", counted)
    return attended


def budget() -> MemoryBudget:
    return MemoryBudget(None, 4096, 4096)


@pytest.mark.parametrize("order", [range(7), [6, 0, 1, 2, 3, 4, 5]])
def test_likelihoods_and_answers_are_those_with_masks(kernels: list[int], order: Sequence[int]) -> None:
    prompts = [PROMPTS[i] for i in order]
    rows = pack_with_prefixes(prompts, [1] * len(prompts))
    assert {len(row.prefix) for row in rows} == {0, 75, 90}
    targets = {n: prompt[-1:] for n, prompt in enumerate(prompts)}
    stops = {n: StopCriteria(6, ()) for n in targets}
    found = []
    for loaded in (vlm(fused=False), vlm(fused=True)):
        scores = LogLikelihoods(loaded, rows, targets).result()
        texts: dict[int, str] = {}
        for done in AnswerGenerator(loaded, PackedPrompts(loaded, rows), stops, budget()):
            texts |= done
        found.append((scores, texts))
    assert set(kernels) == {0, 1, 2, 3}
    masked, fused = found
    assert masked[1] == fused[1] and len(set(fused[1].values())) > 3
    for number, (score, is_greedy) in masked[0].items():
        assert fused[0][number] == (pytest.approx(score, abs=1e-4), is_greedy)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen2_5_vl_text", "qwen3", "qwen3_vl_text"])
def test_each_kind_of_decoder_computes_what_transformers_computes(kernels: list[int], kind: str) -> None:
    plain, fused = (LlavaModel(on(kind), tokenizer(), None) for _ in range(2))
    attention._use_fused_attention(fused.language_model)
    assert {type(layer.self_attn).__name__ for layer in fused.language_model.layers} <= set(attention.ROTARY_ATTENTION)
    rows = pack_with_prefixes(PROMPTS, [1] * len(PROMPTS))
    one, other = (vlm.hidden_states(rows, {}) for vlm in (plain, fused))
    assert kernels
    for number, row in enumerate(rows):
        assert torch.allclose(one[number, : len(row)], other[number, : len(row)], atol=1e-4)


def test_rows_that_share_tokens_in_themselves_keep_their_mask(kernels: list[int]) -> None:
    stem = [*BEGINNINGS[0], *range(20)]
    prompts = [[*stem[:90], 3], *([*stem, 30 + i, 31, 32] for i in range(3))]
    rows = pack_with_prefixes(prompts, [4] * 4)
    assert any(row.prefix and not row.is_chains for row in rows)
    targets = {n: prompt[-1:] for n, prompt in enumerate(prompts)}
    masked, fused = (LogLikelihoods(vlm(of), rows, targets).result() for of in (False, True))
    assert not kernels
    assert {n: score for n, (score, _) in fused.items()} == pytest.approx(
        {n: s for n, (s, _) in masked.items()}, abs=1e-4
    )


def test_segments_cover_all_rows_and_padding() -> None:
    rows = pack_with_prefixes([PROMPTS[6], *PROMPTS[:6]], [1] * 7)
    longest = max(map(len, rows)) + 2
    segments = Segments.of(rows, longest, 96)
    assert segments is not None
    assert segments.chains == sorted(set(segments.chains)) and segments.chains[-1] == len(rows) * longest
    assert segments.groups[-1] == len(rows) * longest and len(segments.used) == 3
    assert sorted(segments.used) == [0, 75, 90] and segments.prefixes[-1] == 2 * 96
    apart = [rows[0], rows[1], rows[0]]
    assert Segments.of(apart, longest, 96) is None


def test_a_pass_takes_more_rows_where_a_prefix_is_not_copied() -> None:
    rows = [row for row in pack_with_prefixes(PROMPTS[:4], [1] * 4) for row in row.split(1)]
    assert len(rows) == 4
    assert MemoryBudget(None, 120, 0).take_rows(rows, copies_no_prefix=False) == 1
    assert MemoryBudget(None, 120, 0).take_rows(rows, copies_no_prefix=True) == 4
    assert MemoryBudget(None, 120, 0).take_rows(rows, copies_no_prefix=True, answers=3) == 3
    assert MemoryBudget(2, 120, 0).take_rows(rows, copies_no_prefix=True) == 2


def test_with_gradients_the_attention_is_that_of_transformers(kernels: list[int]) -> None:
    ids = torch.tensor([PROMPTS[0]])
    with torch.inference_mode():
        plain, fused = (vlm(of).language_model(input_ids=ids).last_hidden_state for of in (False, True))
    assert torch.allclose(plain, fused, atol=1e-4)
    states = vlm(fused=True).language_model(input_ids=ids).last_hidden_state
    assert states.requires_grad and torch.equal(states, plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels run on a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernels_are_the_plain_functions(dtype: torch.dtype) -> None:
    from vrbench.models import triton_kernels

    torch.manual_seed(0)
    given: dict[str, Any] = {"device": "cuda", "dtype": dtype}
    states, angles = torch.randn(2, 5, 4, 64, **given), torch.rand(1, 5, 32, device="cuda") * 6
    cosines, sines = (torch.cat([table, table], -1).to(dtype) for table in (angles.cos(), angles.sin()))
    expected = states.float()
    plain_rotate(expected, cosines, sines)
    triton_kernels.rotate(states, cosines, sines)
    assert torch.allclose(states.float(), expected, atol=2e-2)
    query, key, value = torch.randn(20, 8, 64, **given), *torch.randn(2, 12, 2, 64, **given)
    ends = torch.tensor([[0, 7, 20], [0, 0, 12]], device="cuda", dtype=torch.int32)
    used = torch.tensor([0, 9], device="cuda", dtype=torch.int32)
    out, lse = prefix_attention.varlen_attention(query, key, value, *ends, 13, 12, 0.125, used=used)
    cpu = [given.cpu() for given in (query.float(), key.float(), value.float(), *ends)]
    wanted, wanted_lse = plain_attention(*cpu, 13, 12, 0.125, used=used.cpu())
    assert torch.allclose(out.cpu().float(), wanted, atol=2e-2) and torch.allclose(lse.cpu(), wanted_lse, atol=1e-2)
    chains = torch.tensor([0, 5, 12], device="cuda", dtype=torch.int32)
    causal = (chains, chains, 7, 7, 0.125)
    own, _ = prefix_attention.varlen_attention(query[:12], key, value, *causal, causal=True)
    wanted, _ = plain_attention(
        *(t.cpu().float() for t in (query[:12], key, value)), chains.cpu(), chains.cpu(), 7, 7, 0.125, causal=True
    )
    assert torch.allclose(own.cpu().float(), wanted, atol=2e-2)
    own, own_lse = torch.randn(20, 8, 64, **given), torch.randn(8, 20, device="cuda")
    expected = own.cpu().float()
    plain_merge(expected, own_lse.cpu(), out.cpu().float(), lse.cpu())
    triton_kernels.merge(own, own_lse, out, lse)
    assert torch.allclose(own.cpu().float(), expected, atol=2e-2)
