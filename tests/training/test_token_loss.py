"""The loss of labelled tokens: the same in parts, whose logits are never there together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.training.conversation_samples import ONE, SEVERAL, WORDS, loaded
from vrbench.training import conversation_batches
from vrbench.training.conversation_batches import EncodedConversations, answer_loss
from vrbench.training.conversation_encoder import ConversationEncoder
from vrbench.training.token_loss import token_loss


@pytest.mark.parametrize("weights", [None, torch.arange(10) / 7])
@pytest.mark.parametrize("parts", [1, 3])
def test_parts_have_the_same_loss_and_gradients(parts: int, weights: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    head, states, targets = nn.Linear(8, 50), torch.randn(10, 8, requires_grad=True), torch.arange(10)
    sizes: list[int] = []
    head.register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    loss = token_loss(states, targets, head, weights, largest=4 * 50 * (10 if parts == 1 else 4))
    loss.backward()
    assert sizes == ([10] if parts == 1 else [4, 4, 2, 2, 4, 4])  # again in the backward pass
    found = [states.grad, head.weight.grad]
    states.grad = head.weight.grad = None
    expected = nn.functional.cross_entropy(head(states), targets, reduction="none") @ (
        torch.ones(10) if weights is None else weights
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(found, [states.grad, head.weight.grad], strict=True):
        assert ours is not None and theirs is not None and torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_the_head_sees_labelled_tokens_alone(family: str, is_scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a decoder that scales its logits computes them itself."""
    vlm = loaded(family)
    rows = EncodedConversations([ONE, SEVERAL, WORDS], ConversationEncoder(vlm))
    batch = rows.collate([rows[0], rows[2]])
    seen: list[Any] = []
    head = vlm.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape[:-1])))
    if is_scaled:
        monkeypatch.setattr(conversation_batches, "LOGIT_SCALES", ("vocab_size",))
    with torch.inference_mode():
        loss = answer_loss(vlm.model, batch)
        hook.remove()
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "items")}
        logits = vlm.model(**inputs).logits[:, :-1].flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, batch["labels"][:, 1:].flatten(), reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert ((sum(batch["items"]),) in seen) != is_scaled
    assert "forward" not in vars(head)
