"""Conversations as a data set: which samples fit, and steps of one kind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.training.conversation_samples import FAMILY, ONE, SEVERAL, TWO, WORDS, loaded, picture
from vrbench.core.errors import VrbenchError
from vrbench.pruning.questions import FolderQuestions
from vrbench.pruning.samples import padded_inputs
from vrbench.training import packed_attention
from vrbench.training.conversation_batches import EncodedConversations, answer_loss, grouped_order
from vrbench.training.conversation_encoder import ConversationEncoder
from vrbench.training.conversations import Conversation
from vrbench.training.packed_attention import use_packed_attention
from vrbench.training.recipe import PACKED_FAMILIES


@FAMILY
def test_what_fits_is_what_can_be_encoded(family: str) -> None:
    vlm = loaded(family)
    for asked in (SEVERAL, TWO, WORDS):
        whole = ConversationEncoder(vlm, 8000)
        row = whole.split(asked)[0]
        encoded = whole.encode(row)
        assert encoded is not None
        begins = int((encoded["labels"][0] != -100).nonzero()[0])
        for length, fits in ((begins, False), (begins + 1, True)):
            made = ConversationEncoder(vlm, length)
            assert made.fits(row) == (made.encode(row) is not None) == fits


def test_samples_that_do_not_fit_are_counted() -> None:
    vlm = loaded("llava")
    made = EncodedConversations([WORDS, TWO, ONE], ConversationEncoder(vlm, 25))
    assert [sample.turns for sample in made.samples] == [WORDS.turns, ONE.turns] and made.too_long == 1
    with pytest.raises(VrbenchError, match=r"none of 1 samples .* 25 tokens"):
        EncodedConversations([TWO], ConversationEncoder(vlm, 25))
    one_by_one = EncodedConversations([SEVERAL, WORDS], ConversationEncoder(loaded("paligemma")))
    assert len(one_by_one.samples) == 5  # one for each question


def test_samples_whose_image_the_family_refuses_are_left_out_with_the_reason() -> None:
    strip = Conversation("x", ONE.turns, (picture(0, 700, 3),), "x.json, sample 7")
    made = EncodedConversations([strip, ONE, WORDS], ConversationEncoder(loaded("qwen3_vl")))
    assert [sample.turns for sample in made.samples] == [ONE.turns, WORDS.turns] and made.too_long == 0
    [why] = made.refused
    assert why.startswith("x.json, sample 7: the image processor of qwen3_vl refuses an image of 700 x 3: ")


def test_a_refused_image_of_a_folder_is_named(tmp_path: Path) -> None:
    for name, size in (("plain", (70, 40)), ("strip", (700, 3))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    asked = [question for of in FolderQuestions(tmp_path, 2) for question in of]
    with pytest.raises(
        VrbenchError, match=r"strip\.png: the image processor of qwen3_vl refuses an image of 700 x 3: "
    ):
        padded_inputs(loaded("qwen3_vl"), asked)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_a_loader_say_how_many_tokens_carry_loss(workers: int) -> None:
    made = EncodedConversations([WORDS, ONE, SEVERAL], ConversationEncoder(loaded("idefics3")))
    batches = list(DataLoader(made, 3, collate_fn=made.collate, num_workers=workers))
    assert [batch["items"] for batch in batches] == [(batches[0]["labels"] != -100).sum(1).tolist()]


@pytest.mark.parametrize("family", PACKED_FAMILIES)
@pytest.mark.parametrize(("weighted", "masked"), [(False, False), (True, False), (False, True)])
def test_packed_samples_have_the_loss_and_the_gradients_of_padded_ones(
    family: str, weighted: bool, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = loaded(family)
    monkeypatch.setattr(vlm.language_model.config, "_attn_implementation_internal", "sdpa")
    if not masked:
        use_packed_attention(vlm.model, 2048)
        called = Mock(wraps=packed_attention.scaled_dot_product_attention)
        monkeypatch.setattr(packed_attention, "scaled_dot_product_attention", called)
    made = EncodedConversations([ONE, WORDS, SEVERAL, TWO], ConversationEncoder(vlm))
    rows = [made[number] for number in range(4)]
    found = []
    for batch in (made.collate(rows), made.packed(rows)):
        if weighted:
            batch["weights"] = torch.tensor([0.5, 1.0, 2.0, 4.0])
        vlm.model.zero_grad()
        loss = answer_loss(vlm.model, batch)
        loss.backward()
        loss = loss.detach()
        gradients = [p.grad.clone() for p in vlm.model.parameters() if p.grad is not None]
        found.append((batch["items"], batch["tokens"], float(loss), gradients))
    vlm.model.zero_grad()
    (items, tokens, loss, gradients), (packed_items, packed_tokens, packed_loss, packed_gradients) = found
    assert (packed_items, packed_tokens) == (items, tokens) and packed_loss == pytest.approx(loss, rel=1e-5)
    assert len(gradients) == len(packed_gradients)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(gradients, packed_gradients, strict=True))
    has_window = family == "mistral3"  # of 16 tokens: transformers' mask is kept
    assert masked or called.call_count == (0 if has_window else 4 * vlm.depth)
    with torch.no_grad():  # the lengths do not matter where the model is evaluated
        assert float(answer_loss(vlm.model, {**batch, "lengths": [1]})) == pytest.approx(packed_loss, rel=1e-5)


def test_the_samples_of_a_step_are_of_one_kind_and_like_lengths() -> None:
    kinds, lengths = np.arange(1000) % 5 // 2, np.random.default_rng(0).integers(1, 500, 1000)
    order = grouped_order(kinds, lengths, 16, 62, seed=0)
    steps = order.reshape(62, 16)
    assert max(Counter(order.tolist()).values()) == 1
    mixed = [len(set(kinds[step].tolist())) > 1 for step in steps]
    assert sum(mixed) <= 2 and not any(mixed[:-2])
    assert all((np.diff(lengths[step]) <= 0).all() for step in steps)
    assert (grouped_order(kinds, lengths, 16, 62, seed=0) == order).all()
    assert (grouped_order(kinds, lengths, 16, 62, seed=1) != order).any()
    assert (grouped_order(kinds, lengths, 16, 5, seed=0) == order[:80]).all()
    first = kinds[steps[:40, 0]]
    assert len(set(first.tolist())) == 3 and (np.diff(first) != 0).sum() > 5  # kinds are mixed over the steps


def test_without_grouping_each_sample_comes_once_in_random_order() -> None:
    made = EncodedConversations([WORDS, ONE, TWO] * 4, ConversationEncoder(loaded("llava")))
    order = made.order(4, 6, seed=0, grouping="none")
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12)) and list(order[:12]) != list(order[12:])
    assert any(len({len(made.samples[i].images) for i in step}) == 3 for step in order.reshape(6, 4))


def test_micro_batches_of_a_step_have_like_lengths_in_total() -> None:
    """As LLaVA's split_to_even_chunks makes them."""
    lengths = np.array([9, 1, 2, 3, 4, 8, 6, 7, 5, 1])
    plain, even = (grouped_order(np.zeros(10, int), lengths, 10, 1, 0, size) for size in (None, 5))
    assert list(lengths[plain]) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 1]
    assert list(lengths[even]) == [9, 6, 5, 2, 1, 8, 7, 4, 3, 1]


@pytest.mark.parametrize(("family", "together"), [("llava", True), ("mllama", False)])
def test_only_mllama_needs_the_same_number_of_pictures_in_a_step(family: str, together: bool) -> None:
    made = EncodedConversations([WORDS, ONE, TWO] * 4, ConversationEncoder(loaded(family)))
    pictures = np.array([len(sample.images) for sample in made.samples])
    steps = [set(pictures[step].tolist()) for step in made.order(4, 3, seed=0).reshape(3, 4)]
    assert all((0 in step) == (step == {0}) for step in steps)
    assert any(step == {1, 2} for step in steps) == together


@pytest.mark.parametrize(("count", "batch", "steps"), [(10, 4, 3), (10, 4, 8), (3, 8, 2), (7, 2, 30)])
def test_every_sample_comes_as_often_as_any_other_within_two(count: int, batch: int, steps: int) -> None:
    order = grouped_order(np.arange(count) % 2, np.ones(count, dtype=int), batch, steps, seed=3)
    seen = Counter(order.tolist())
    assert len(order) == batch * steps and (len(seen) == count or batch * steps < count)
    assert max(seen.values()) - min(seen.values()) <= 2
