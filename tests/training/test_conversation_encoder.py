"""Every family's inputs and labels of conversations: what is learned is the answers, the same in a batch as alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.training.conversation_samples import FAMILY, LATER, ONE, SEVERAL, TWO, WORDS, loaded, sample
from vrbench.checkpoints.prompts import vicuna_template
from vrbench.core.errors import VrbenchError
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.training.conversation_batches import answer_loss, collate, count_answer_tokens, split_batch
from vrbench.training.conversation_encoder import ConversationEncoder, pad_to_square
from vrbench.training.conversations import Conversation
from vrbench.training.trainer import IGNORED

LONG = 8000


def encoded(vlm: Any, sample: Conversation, length: int = LONG) -> list[dict[str, torch.Tensor]]:
    made = ConversationEncoder(vlm, length)
    found = [made.encode(row) for row in made.split(sample)]
    return [row for row in found if row is not None]


def runs(row: dict[str, torch.Tensor]) -> list[list[int]]:
    """The stretches of labels, each a list of tokens."""
    found: list[list[int]] = []
    labels = row["labels"][0].tolist()
    for before, label in zip([IGNORED, *labels], labels, strict=False):
        if label != IGNORED:
            if before == IGNORED:
                found.append([])
            found[-1].append(label)
    return found


@FAMILY
@pytest.mark.parametrize("asked", [ONE, SEVERAL, TWO, LATER, WORDS], ids=["one", "several", "two", "later", "words"])
def test_labels_are_the_answers_and_their_ends(family: str, asked: Conversation) -> None:
    vlm = loaded(family)
    rows = encoded(vlm, asked)
    said = [stretch for row in rows for stretch in runs(row)]
    end = vlm.tokenizer.convert_tokens_to_ids("</s>" if family in ("llava", "paligemma") else "<|end|>")
    if family == "mistral3" and asked.turns[0].n_images:  # whose frame is not the template
        end = vlm.tokenizer.eos_token_id
    assert [vlm.tokenizer.decode(tokens[:-1]) for tokens in said] == [turn.answer for turn in asked.turns]
    assert {tokens[-1] for tokens in said} == {end}
    for row in rows:
        labels, ids = row["labels"], row["input_ids"]
        assert torch.equal(labels[labels != IGNORED], ids[labels != IGNORED])
        assert bool((ids == vlm.model.config.image_token_id).any()) == bool(row.keys() & {"pixel_values"})
        assert not bool((labels == vlm.model.config.image_token_id).any())


@FAMILY
@pytest.mark.parametrize("asked", [ONE, TWO, WORDS], ids=["one", "two", "words"])
def test_a_question_is_put_as_it_is_when_the_model_is_measured(family: str, asked: Conversation) -> None:
    vlm = loaded(family)
    turn, row = asked.turns[0], encoded(vlm, asked)[0]
    prompt = vlm.prompt(turn.question, turn.n_images)
    if not asked.images:
        expected = {"input_ids": torch.tensor([vlm.encode(prompt)])}
    elif family == "llava":
        slots = [-1 - i for i in range(turn.n_images * vlm.image_tokens)]
        ids = [vlm.model.config.image_token_id if i in slots else i for i in vlm.encode(prompt, range(turn.n_images))]
        expected = {"input_ids": torch.tensor([ids])}
    else:
        expected = vlm.encode_with_images([prompt], [asked.open_images()])
    asked_for = int((row["labels"][0] != IGNORED).nonzero()[0])
    for name, tensor in expected.items():
        ours = row[name]
        if name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask"):
            assert tensor.shape[1] == asked_for
            ours = ours[:, :asked_for]
        assert torch.equal(ours, tensor), name


def slow_loss(vlm: Any, row: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum over a sample's answer tokens, one by one, without padding."""
    inputs = {name: tensor for name, tensor in row.items() if name != "labels"}
    logits = vlm.model(**inputs, use_cache=False).logits[0].float()
    labels = row["labels"][0].tolist()
    picked = [-logits[i - 1].log_softmax(-1)[label] for i, label in enumerate(labels) if label != IGNORED]
    return torch.stack(picked).sum()


def gradients(vlm: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}
    vlm.model.zero_grad(set_to_none=True)
    return found


@FAMILY
def test_a_mixed_batch_is_the_mean_over_its_tokens_of_single_samples(family: str) -> None:
    vlm = loaded(family)
    rows = [row for asked in (WORDS, TWO, SEVERAL, ONE) for row in encoded(vlm, asked)]
    batch = collate(rows)
    vlm.model.train()
    try:
        count = sum(int((row["labels"] != IGNORED).sum()) for row in rows)
        expected = sum(slow_loss(vlm, row) for row in rows) / count
        expected.backward()
        single = gradients(vlm)
        loss = answer_loss(vlm.model, batch) / sum(count_answer_tokens(batch))
        loss.backward()
        together = gradients(vlm)
        parts = [
            (vlm.model(**part, use_cache=False).loss, sum(count_answer_tokens(part))) for part in split_batch(batch)
        ]
        whole = sum(loss * tokens for loss, tokens in parts) / count
    finally:
        vlm.model.eval()
    assert sum(count_answer_tokens(batch)) == count and len(parts) == (3 if family == "mllama" else 1)
    assert torch.allclose(loss, expected, atol=1e-5) and torch.allclose(whole, expected, atol=1e-5)
    assert single.keys() == together.keys() and len(single) > 20
    largest = max(float(g.abs().max()) for g in single.values())
    assert all(torch.allclose(single[n], together[n], atol=1e-5 * largest, rtol=1e-4) for n in single)


@FAMILY
def test_words_alone_make_a_batch(family: str) -> None:
    vlm = loaded(family)
    rows = [row for asked in (WORDS, sample(("A?", "B.", 0))) for row in encoded(vlm, asked)]
    batch = collate(rows)
    count = sum(count_answer_tokens(batch))
    vlm.model.train()
    try:
        loss = answer_loss(vlm.model, batch) / sum(count_answer_tokens(batch))
    finally:
        vlm.model.eval()
    assert torch.allclose(loss, sum(slow_loss(vlm, row) for row in rows) / count, atol=1e-5)


@FAMILY
def test_what_is_too_long_is_cut_and_no_picture_in_two(family: str) -> None:
    vlm = loaded(family)
    asked = SEVERAL if family != "paligemma" else ONE
    whole = encoded(vlm, asked)[0]
    labelled = (whole["labels"][0] != IGNORED).nonzero()[:, 0].tolist()
    [cut] = encoded(vlm, asked, labelled[3] + 1)[:1]
    assert cut["input_ids"].shape[1] == labelled[3] + 1 and len(runs(cut)[0]) == 4
    assert torch.equal(cut["pixel_values"], whole["pixel_values"])
    assert all(t.shape[1] == labelled[3] + 1 for n, t in cut.items() if n.endswith(("_ids", "mask", "labels"))
               and n not in ("aspect_ratio_ids", "aspect_ratio_mask", "pixel_attention_mask"))  # fmt: skip
    assert encoded(vlm, asked, labelled[0]) == []  # not a token of an answer is left
    there = (whole["input_ids"][0] == vlm.model.config.image_token_id).nonzero()[:, 0].tolist()
    assert encoded(vlm, asked, there[-1]) == []
    if family != "paligemma":
        full = encoded(vlm, LATER)[0]
        first = (full["input_ids"][0] == vlm.model.config.image_token_id).nonzero()[0, 0]
        [words] = encoded(vlm, LATER, int(first) + 1 - (family == "mllama"))
        assert [vlm.tokenizer.decode(said[:-1]) for said in runs(words)] == ["Hi."]
        assert "pixel_values" not in words


def test_it_goes_to_other_processes_without_weights() -> None:
    vlm = loaded("qwen2_5_vl")
    sent = pickle.dumps(ConversationEncoder(vlm))
    assert len(sent) < 200_000
    assert pickle.loads(sent).encode(WORDS)["labels"].tolist() == encoded(vlm, WORDS)[0]["labels"].tolist()


def with_template(template: str | None) -> Any:
    vlm = load_vlm(resolve_checkpoint(str(tiny.save_llava(Path(mkdtemp()) / "llava"))))
    vlm.tokenizer.chat_template = template
    return vlm


def test_vicuna_where_there_is_no_template() -> None:
    vlm = with_template(None)
    row = encoded(vlm, SEVERAL)[0]
    text = vlm.tokenizer.decode(row["input_ids"][0])
    assert text.endswith("</s>USER: Which colour? ASSISTANT: It is red, or so.</s>USER: Old? ASSISTANT: No</s>")
    assert "user's questions. USER: <image><image><image><image>\nWhat is it? ASSISTANT: A dog.</s>" in text
    assert [vlm.tokenizer.decode(said) for said in runs(row)] == [f" {turn.answer}</s>" for turn in SEVERAL.turns]


def test_converted_checkpoints_are_trained_as_llava_s_code_writes_conversations() -> None:
    vlm = with_template(vicuna_template("</s>"))
    row = encoded(vlm, SEVERAL)[0]
    shown = "<image>" * vlm.image_tokens
    assert vlm.tokenizer.decode(row["input_ids"][0]) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed,"
        f" and polite answers to the user's questions. USER: {shown}\nWhat is it? ASSISTANT: A dog.</s>"
        "USER: Which colour? ASSISTANT: It is red, or so.</s>USER: Old? ASSISTANT: No</s>"
    )
    assert [vlm.tokenizer.decode(said) for said in runs(row)] == [f" {turn.answer}</s>" for turn in SEVERAL.turns]


LLAVA_HF = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{{ m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


WITH_NEWLINES = (
    "{% for m in messages %}{{ '<|bot|>' if m['role'] == 'assistant' else '<|user|>' }}"
    "{{ m['content'] + '</s>' + '\n' }}{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
)


def test_the_line_break_behind_an_end_token_is_labelled_on_request() -> None:
    vlm = with_template(WITH_NEWLINES)
    text = "<|user|>Two and two?</s>\n<|bot|>Four, I think.</s>\n<|user|>Sure?</s>\n<|bot|>Yes!</s>\n"
    for label_newline, end in ((False, "</s>"), (True, "</s>\n")):
        row = ConversationEncoder(vlm, label_newline=label_newline).encode(WORDS)
        assert row is not None and vlm.tokenizer.decode(row["input_ids"][0]) == text
        assert [vlm.tokenizer.decode(said) for said in runs(row)] == [f"Four, I think.{end}", f"Yes!{end}"]


def test_a_line_break_that_the_template_does_not_have_cannot_be_labelled() -> None:
    with pytest.raises(
        VrbenchError, match="label_newline is true, but the chat template of this llava model has no line"
    ):
        ConversationEncoder(with_template(LLAVA_HF), label_newline=True)
    with pytest.raises(VrbenchError, match="label_newline is true, but an answer of paligemma ends with its end token"):
        ConversationEncoder(loaded("paligemma"), label_newline=True)


def test_an_answer_that_a_template_does_not_end_is_ended_by_the_end_of_text() -> None:
    vlm = with_template(LLAVA_HF)
    row = encoded(vlm, WORDS)[0]
    assert vlm.tokenizer.decode(row["input_ids"][0]) == (
        "USER: Two and two? ASSISTANT: Four, I think.</s>USER: Sure? ASSISTANT: Yes!</s>"
    )
    assert [vlm.tokenizer.decode(said) for said in runs(row)] == [" Four, I think.</s>", " Yes!</s>"]


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for m in messages %}<|user|>{{ m['content'] }}</s>{% endfor %}<|bot|>", "does not begin with the prompt"),
        ("{% for m in messages %}{% if m['role'] == 'user' %}Q{% else %}{{ '<|bot|>' + m['content'] }}</s>{% endif %}"
         "{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}", "drops messages"),
        ("{% for m in messages %}{{ m['content'] if loop.last or m['role'] == 'user' else '' }}</s>{% endfor %}"
         "{% if add_generation_prompt %}{% endif %}", "does not begin with the prompt"),
    ],
    ids=["frame", "question", "earlier"],
)  # fmt: skip
def test_a_template_that_cannot_be_trained_with_is_told(template: str, fault: str) -> None:
    with pytest.raises(VrbenchError, match=fault):
        ConversationEncoder(with_template(template))


def test_padding_to_a_square() -> None:
    shown = Image.new("RGB", (6, 2), (255, 0, 0))
    square = np.asarray(pad_to_square(shown, [0.5, 0.25, 0.0]))
    assert square.shape == (6, 6, 3)
    assert (square[2:4] == [255, 0, 0]).all() and (square[[0, 1, 4, 5]] == [127, 63, 0]).all()
    vlm = loaded("llava")
    plain, squared = (ConversationEncoder(vlm, pad_square=square).encode(ONE) for square in (False, True))
    assert plain is not None and squared is not None and not torch.equal(plain["pixel_values"], squared["pixel_values"])


def test_paligemma_is_asked_one_question_at_a_time_and_does_not_see_the_answer() -> None:
    vlm = loaded("paligemma")
    rows = encoded(vlm, SEVERAL)
    assert len(rows) == 3 and all(len(row["pixel_values"]) == 1 for row in rows)
    processor = vlm.processor(
        text="<image>What is it?", images=[SEVERAL.open_images()], suffix="A dog.", return_tensors="pt"
    )
    for name in ("input_ids", "token_type_ids", "labels"):
        assert rows[0][name].tolist() == processor[name].tolist(), name
    other = {name: tensor.clone() for name, tensor in rows[0].items() if name != "labels"}
    first = int((rows[0]["labels"][0] != IGNORED).nonzero()[0])
    other["input_ids"][0, first + 1 :] = 65
    ours = {name: tensor for name, tensor in rows[0].items() if name != "labels"}
    with torch.inference_mode():
        logits = [vlm.model(**inputs, use_cache=False).logits[0, : first + 1] for inputs in (ours, other)]
    assert torch.allclose(*logits, atol=1e-5)
