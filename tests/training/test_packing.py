"""All questions of an image in one row give what each gives alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.training import packed
from tests.training.packed import CPU, TURNS
from vrbench.models import pocket
from vrbench.pocket.turns import turns
from vrbench.pocket.world import scene
from vrbench.training.packing import EncodedImages, PackedDataset, Packer, RowBatch, attention_mask
from vrbench.training.trainer import IGNORED


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llava()


def dataset(features: torch.Tensor | None = None, length: int = 0) -> PackedDataset:
    """The rows of TURNS."""
    features = torch.zeros(len(TURNS), 1, 1) if features is None else features
    return PackedDataset.concat([EncodedImages(features, packed.packer().rows(TURNS))], 7, CPU, length)


def answer_logits(model: Any, features: torch.Tensor, length: int = 0) -> tuple[torch.Tensor, RowBatch]:
    """Logits [answer tokens, vocabulary] of all rows, and the batch that they were computed in."""
    llava, rows = packed.packed_llava(model), dataset(features, length)
    batch = rows.collate(range(len(rows)))
    computed = rows.batch(batch["rows"], batch["length"])
    with torch.inference_mode():
        return llava.inner.lm_head(llava.answer_states(computed, batch["answers"])), computed


@pytest.mark.parametrize("length", [0, 150])
def test_a_packed_turn_s_logits_are_those_of_the_turn_alone(model: Any, length: int) -> None:
    pictures = packed.pixels()
    found, batch = answer_logits(model, packed.features(model, pictures), length)
    targets = batch.target[batch.target != IGNORED]
    parts = [packed.alone(model, picture, t) for picture, asked in zip(pictures, TURNS, strict=True) for t in asked]
    expected = torch.cat([logits for logits, _ in parts])
    assert targets.tolist() == [token for _, said in parts for token in said]
    assert float((found - expected).abs().max()) < 1e-5
    assert float(expected.std()) > 0.1  # so that being near means something


def test_eager_attention_has_the_same_mask() -> None:
    """It adds a mask to the scores, where SDPA takes true for allowed."""
    model = tiny.llava()
    seen = packed.features(model, packed.pixels())
    expected = answer_logits(model, seen)[0]
    model.model.language_model.set_attn_implementation("eager")
    assert torch.allclose(answer_logits(model, seen)[0], expected, atol=1e-4)


def test_features_as_a_card_keeps_them_meet_a_float32_projector(model: Any) -> None:
    kept = packed.features(model, packed.pixels()).bfloat16()
    rounded, expected = (answer_logits(model, features)[0] for features in (kept, kept.float()))
    assert rounded.dtype == torch.float32 and torch.equal(rounded, expected)


def test_only_answers_are_learnt() -> None:
    words = tiny.tokenizer()
    for row, asked in zip(packed.packer().rows(TURNS), TURNS, strict=True):
        for number, turn in enumerate(asked, start=1):
            said = row.target[(row.turn == number) & (row.target != IGNORED)]
            assert words.decode(said) == f"{turn.answer}</s>"
        assert (row.target[row.turn == 0] == IGNORED).all()
        assert row.kinds == tuple(t.kind for t in asked)


def test_a_target_is_the_token_that_follows() -> None:
    for row in packed.packer().rows(TURNS):
        for i in np.flatnonzero(row.target != IGNORED)[:-1]:
            if row.turn[i + 1] == row.turn[i]:
                assert row.tokens[i + 1] == row.target[i]
                assert row.position[i + 1] == row.position[i] + 1


def test_turns_see_the_picture_and_themselves_alone() -> None:
    (row,) = packed.packer().rows(TURNS[:1])
    mask = attention_mask(torch.from_numpy(row.turn)[None])[0, 0]
    for i, j in np.ndindex(*mask.shape):
        assert bool(mask[i, j]) == (j <= i and row.turn[j] in (0, row.turn[i]))


def test_padding_is_seen_by_no_token_and_is_no_target() -> None:
    rows = packed.packer().rows(TURNS)
    batch = dataset(length=200).batch(torch.arange(len(rows)), 200)
    for i, row in enumerate(rows):
        used = len(row.tokens)
        assert batch.tokens[i, used:].unique().tolist() == [7]
        assert (batch.target[i, used:] == IGNORED).all()
        assert not batch.mask[i, 0, :used, used:].any()
        assert batch.mask[i, 0].any(-1).all()  # a row of nothing would be NaN


def test_the_tokens_of_training_are_those_of_the_evaluation() -> None:
    """Question by question in the real chat, whatever is tokenised together."""
    words = PreTrainedTokenizerFast.from_pretrained(pocket.processor_folder())
    asked = [turn for i in range(40) for turn in turns(scene("train", i), 6)]
    for turn, row in zip(asked, Packer(words, pocket.IMAGE_TOKENS).rows([[t] for t in asked]), strict=True):
        message = [{"role": "user", "content": f"<image>\n{turn.prompt}"}]
        text = words.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        prompt = words(text.replace("<image>", "<image>" * pocket.IMAGE_TOKENS))["input_ids"]
        said = words(turn.answer)["input_ids"] + [words.eos_token_id]
        assert row.tokens.tolist() == prompt + said[:-1]
        assert row.target[row.target != IGNORED].tolist() == said
