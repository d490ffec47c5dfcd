"""The styles that are named after published code make the tokens and labels that this code made, sample by sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.odd_conversations import KINDS, samples
from benchmarks.originals import ORIGINALS, PINNED, Tokens, ours, pinned_digests
from tests import tiny
from tests.conversion import tokenizers
from tests.training.test_families_tuned import conversations
from vrbench.checkpoints.prompts import IMAGE, vicuna_template
from vrbench.core.errors import VrbenchError
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.training import load
from vrbench.training.conversation_batches import EncodedConversations, answer_loss
from vrbench.training.conversation_encoder import ConversationEncoder
from vrbench.training.conversation_sets import from_json
from vrbench.training.original_format import OriginalFormat
from vrbench.training.prepare import dry_run
from vrbench.training.run import train
from vrbench.training.trainer import IGNORED


@pytest.mark.parametrize("name", ORIGINALS)
def test_tokens_and_labels_are_those_of_the_published_code(name: str) -> None:
    original = ORIGINALS[name]
    made: dict[str, list[Tokens]] = {}
    for kind, record in samples(original.number):
        made.setdefault(kind, []).append(ours(original, original.style, record))
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))[name]
    found = pinned_digests(made)
    assert [kind for kind in KINDS if found[kind] != pinned[kind]] == []
    assert sum(len(rows) for rows in made.values()) == (288 if name == "LLaVA-1.5" else 197)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny LLaVA with the chat template of converted ones."""
    folder = tiny.save_llava(tmp_path / "base")
    (folder / "chat_template.jinja").write_text(vicuna_template("</s>"))
    return folder


def said(*values: str, image: bool = True) -> dict[str, Any]:
    messages = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return {"conversations": messages, **({"image": "a.png"} if image else {})}


ODD = [
    said(f"What {IMAGE} is it?", " A dog. ", "And?", "", f"{IMAGE}\nSure?", "Yes"), said("Hello?", image=False),
    said(f"A {IMAGE} tag?", "No", image=False), said(f"{IMAGE}{IMAGE}", f"Two {IMAGE}"), said("Old?", "No"),
]  # fmt: skip


@pytest.fixture
def odd(tmp_path: Path) -> tuple[Path, Path]:
    """A file of odd samples, and the folder of their image."""
    _, images = conversations(tmp_path)
    (images / "a.png").write_bytes(next(images.glob("*.png")).read_bytes())
    (tmp_path / "odd.json").write_text(json.dumps(ODD))
    return tmp_path / "odd.json", images


def test_images_are_shown_at_all_their_places(base: Path, odd: tuple[Path, Path]) -> None:
    vlm = load_vlm(resolve_checkpoint(str(base)))
    found = [from_json(*odd, style=style) for style in ("llava", "visual-region")]  # type: ignore[arg-type]
    assert [one.total for one in found] == [5, 5] and not found[0].skipped
    shown = []
    for style, one in zip(("llava", "visual-region"), found, strict=True):
        data = EncodedConversations(one.samples, ConversationEncoder(vlm, 400, style=style))  # type: ignore[arg-type]
        rows = [data[number] for number in range(len(data))]
        shown.append([len(row.get("pixel_values", ())) for row in rows])
        for row, images in zip(rows, shown[-1], strict=True):
            assert int((row["input_ids"] == vlm.model.config.image_token_id).sum()) == 4 * images
        batch = data.collate(rows)
        assert batch["items"] == [int((row["labels"][0, 1:] != IGNORED).sum()) for row in rows]
        assert torch.isfinite(answer_loss(vlm.model, batch))
        silent = data.collate([rows[1]])  # a question without an answer has no label, as in the original
        assert silent["items"] == [0] and answer_loss(vlm.model, silent).item() == 0
    assert shown == [[2, 0, 0, 2, 0], [2, 0, 0, 3, 0]]


def test_an_image_that_does_not_fit_whole_ends_the_sample(base: Path, odd: tuple[Path, Path]) -> None:
    vlm = load_vlm(resolve_checkpoint(str(base)))
    sample = from_json(*odd, style="llava").samples[0]
    whole = ConversationEncoder(vlm, 2000, style="llava").encode(sample)
    assert whole is not None
    place = int((whole["input_ids"][0] == vlm.model.config.image_token_id).nonzero()[4])
    for maximum, tokens, images in ((place + 3, place, 1), (place + 4, place + 4, 2)):
        cut = ConversationEncoder(vlm, maximum, style="llava").encode(sample)
        assert cut is not None and cut["input_ids"].shape[1] == tokens and len(cut["pixel_values"]) == images
        assert torch.equal(cut["labels"], whole["labels"][:, :tokens])


def test_white_space_and_the_end_are_learned(base: Path) -> None:
    vlm = load_vlm(resolve_checkpoint(str(base)))
    original = OriginalFormat(vlm.tokenizer, 2000)
    ids, labels = original.encode(["What?", " A dog. \n", "Old?", "", "Sure?", "Yes"], has_image=False)
    learned = [token for token, label in zip(ids, labels, strict=True) if label != IGNORED]
    assert vlm.tokenizer.decode(learned) == "  A dog. \n</s> Yes</s>"
    assert vlm.tokenizer.decode(ids).endswith("USER: Old? ASSISTANT:USER: Sure? ASSISTANT: Yes</s>")


def test_a_tokenizer_that_puts_no_space_behind_an_end_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "WORDS", [word for word in tokenizers.WORDS if word != "▁USER"])
    words = tokenizers.phi3_words(metaspace=True)
    words.chat_template = vicuna_template("</s>")
    alone, behind = (words.tokenize(text) for text in ("USER", "</s>USER"))
    assert len(alone) == len(behind[1:]) + 1
    ids, labels = OriginalFormat(words, 900).encode(["A?", "the", "Is it?", "an", "Sure?", "is"], has_image=False)
    learned = [token for token, label in zip(ids, labels, strict=True) if label != IGNORED]
    assert words.convert_ids_to_tokens(learned).count("</s>") == 3 and words.decode(learned).split() == [
        "the</s>", "an</s>", "is</s>",
    ]  # fmt: skip


def test_a_base_with_other_prompts_is_refused_before_weights_are_loaded(
    tmp_path: Path, base: Path, odd: tuple[Path, Path]
) -> None:
    given = {"data.conversations": str(odd[0]), "data.images": str(odd[1]), "data.style": "llava", "tune.layers": "1"}
    plain = tiny.save_llava(tmp_path / "plain")
    asked = given | {"base": str(plain), "data.pad_square": "false", "tune.steps": "2", "tune.batch": "4"}
    asked |= {"tune.micro_batch": "1", "tune.accumulate": "1"}
    with pytest.raises(VrbenchError, match=r"chat template of .*plain writes others.*set data\.style to vrbench"):
        train("llava-1.5-7b-region", tmp_path / "out", asked, device="cpu")
    recipe = load("llava-1.5-7b-region", asked | {"base": str(base)})
    assert "odd.json: 5 of 5 samples" in dry_run(recipe, tmp_path / "out")
    note = resolve_checkpoint(str(train(recipe, tmp_path / "out", device="cpu"))).lineage[0].steps[-1].note
    assert json.loads(note)["samples"] == 5 and 0 < json.loads(note)["final_loss"] < 10  # some have no label


def test_a_style_changes_the_digest_and_its_default_does_not(tmp_path: Path) -> None:
    recipe = load("pocket-region", {"data.conversations": "x.json"})
    assert "style" not in recipe.data.digest_content()
    other = load("pocket-region", {"data.conversations": "x.json", "data.style": "llava"})
    assert other.data.digest_content()["style"] == "llava" and other.digest != recipe.digest
    with pytest.raises(VrbenchError, match=r"data\.style is 'bunny'.*'visual-region'"):
        load("pocket-region", {"data.conversations": "x.json", "data.style": "bunny"})


def test_recipes_as_in_the_paper_take_the_paper_s_style() -> None:
    for name in ("llava-1.5-7b-full", "llava-1.5-13b-region"):
        assert getattr(load(name).data, "style", None) == "llava"
    for name in ("bunny-llama-3-8b-region", "bunny-phi3-mini-full"):
        assert getattr(load(name).data, "style", None) == "visual-region"
