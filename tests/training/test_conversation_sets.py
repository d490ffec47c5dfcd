"""Conversations as LLaVA-665K and Bunny-695K have them: what can be read is, what cannot is counted and reported."""

from __future__ import annotations

import json
import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.fakehub import parquet
from vrbench.checkpoints.prompts import Turn
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.data import hub
from vrbench.training.conversation_sets import (
    MAX_REPORTED,
    from_hub,
    from_json,
    from_parquet,
    held_out_errors,
    select_share,
)
from vrbench.training.conversations import Conversation, InvalidSample, TrainingImage, parse_turns
from vrbench.training.recipe import HubConversations


def picture(seed: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with whole images of two sources, one cut short, one that is none."""
    folder = tmp_path / "images"
    for name in ("coco/train2017/1.jpg", "gqa/images/2.jpg", "vg/3.gif", "coco/mark.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "coco/train2017/1.jpg").write_bytes(picture(1))
    (folder / "gqa/images/2.jpg").write_bytes(picture(2, "PNG"))  # as OCR-VQA has them: another kind than its name
    (folder / "vg/3.gif").write_bytes(picture(3, "GIF"))
    (folder / "coco/short.jpg").write_bytes(picture(4)[:-200])
    (folder / "coco/none.jpg").write_text("<html>404</html>")
    (folder / "coco/mark.jpg").write_bytes(picture(5) + b"\0" * 200)  # whole, with more behind its end
    return folder


GOOD: list[dict[str, Any]] = [
    {"id": "000000033471", "image": "coco/train2017/1.jpg", "conversations": said(
        "<image>\nWhat are the colors of the bus?", "The bus is white and red.", "Is it moving?\n", " No. ")},
    {"id": 17, "image": "gqa/images/2.jpg", "conversations": said("What is it?\n<image>", "A dog")},
    {"id": "text", "conversations": said("Two and two?", "Four", "Sure?", "Yes")},
    {"id": "no mark", "image": "vg/3.gif", "conversations": said("What?", "That")},
    {"image": ["coco/train2017/1.jpg", "coco/mark.jpg"], "conversations": said("Is <image> as <image>?", "No")},
    {"id": "later", "image": ["vg/3.gif"], "conversations": said("Hi", "Hello", "<image>\nWhat now?", "Nothing")},
]  # fmt: skip

BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "there is no file": ("image missing", {"image": "coco/9.jpg", "conversations": said("<image>\na", "b")}),
    "truncated": ("image broken", {"image": "coco/short.jpg", "conversations": said("<image>\na", "b")}),
    "cannot identify": ("image broken", {"image": "coco/none.jpg", "conversations": said("<image>\na", "b")}),
    "gpt, human": (
        "turns out of order", {"conversations": list(reversed(said("a", "b")))}),
    "the last of 3 messages": ("turns out of order", {"conversations": said("a", "b", "c")}),
    "'system'": ("turns out of order", {"conversations": [{"from": "system", "value": "a"}]}),
    "message 4 of 4 is an empty answer": ("empty answer", {"conversations": said("a", "b", "c", " \n")}),
    "message 1 of 2 is an empty question": ("empty question", {"conversations": said("", "b")}),
    "2 image placeholders (<image>) for 1 images": (
        "image placeholders", {"image": "vg/3.gif", "conversations": said("<image><image> a", "b")}),
    "1 image placeholders (<image>) for 0 images": (
        "image placeholders", {"conversations": said("HTML has <image>", "b")}),
    "an answer contains": ("image placeholders", {"image": "vg/3.gif", "conversations": said("a", "see <image>")}),
    "it has no list 'conversations'": ("not a conversation", {"text": "a"}),
    "neither a name nor a list": ("not a conversation", {"image": 7, "conversations": said("a", "b")}),
    "a message of gpt is not text": (
        "not a conversation", {"conversations": [*said("a"), {"from": "gpt", "value": 4}]}),
}  # fmt: skip


def write(folder: Path, records: Any, name: str = "mix.json") -> Path:
    file = folder / name
    lines = name.endswith(".jsonl")
    file.write_text("".join(json.dumps(r) + "\n" for r in records) if lines else json.dumps(records))
    return file


@pytest.mark.parametrize("name", ["mix.json", "mix.jsonl"])
def test_llava_s_records(tmp_path: Path, images: Path, name: str) -> None:
    found = from_json(write(tmp_path, GOOD, name), images)
    assert [sample.turns for sample in found.samples] == [
        (Turn("What are the colors of the bus?", "The bus is white and red.", 1), Turn("Is it moving?", "No.", 0)),
        (Turn("What is it?", "A dog", 1),),
        (Turn("Two and two?", "Four"), Turn("Sure?", "Yes")),
        (Turn("What?", "That", 1),),
        (Turn("Is <image> as <image>?", "No", 2),),
        (Turn("Hi", "Hello"), Turn("What now?", "Nothing", 1)),
    ]
    assert [sample.id for sample in found.samples] == ["000000033471", "17", "text", "no mark", "", "later"]
    assert [sample.source for sample in found.samples] == ["coco", "gqa", "text", "vg", "coco", "vg"]
    assert found.total == 6 and not found.skipped
    assert [picture.size for picture in found.samples[4].open_images()] == [(30, 20), (30, 20)]
    assert found.samples[2].images == ()


def test_what_cannot_be_used_is_counted_and_told_by_file_and_sample(
    tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [{"id": i, **record} for i, (_, record) in enumerate(BAD.values())]
    file = write(tmp_path, [*[GOOD[2]] * 3, *bad])
    with pytest.raises(VrbenchError, match=r"3 of 17 samples; skipped: .* at most 0 ") as told:
        from_json(file, images)
    _, *others = error_messages(told.value)
    for number, (said, (reason, _)) in enumerate(zip(others, BAD.items(), strict=True)):
        assert said.startswith(f"{file}, sample {number + 4} (id {number}): ") and reason in said
    with caplog.at_level(logging.WARNING):
        found = from_json(file, images, max_invalid=0.9)
    assert [sample.id for sample in found.samples] == ["text"] * 3
    kinds = [kind for kind, _ in BAD.values()]
    assert found.skipped == {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    assert found.summary() in caplog.text and all(reason in caplog.text for reason in BAD)


def test_images_of_16_bits_are_counted(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(images / "deep.png")
    record = {"id": "d", "image": ["deep.png", "vg/3.gif"], "conversations": said("Is <image> as <image>?", "No")}
    with caplog.at_level(logging.WARNING):
        found = from_json(write(tmp_path, [record, *GOOD]), images)
    assert found.sixteen_bit == 1 and found.skipped == {}
    assert "samples; images of 16 bits a channel, reduced to the high 8: 1" in found.summary()
    assert found.summary() in caplog.text


def test_only_the_first_faults_are_told_one_by_one(tmp_path: Path) -> None:
    file = write(tmp_path, [{"id": i, "conversations": said("a", "")} for i in range(50)])
    with pytest.raises(VrbenchError) as told:
        from_json(file, None)
    assert len(error_messages(told.value)) == MAX_REPORTED + 2
    assert error_messages(told.value)[-1] == f"... and {50 - MAX_REPORTED} more of {file}"


def test_the_share_that_may_be_left_out(tmp_path: Path) -> None:
    texts = [{"id": i, "conversations": said("a", "b")} for i in range(98)]
    lost = [{"id": "x", "image": "a.jpg", "conversations": said("a", "b")}] * 2
    file = write(tmp_path, [*texts, *lost])
    assert len(from_json(file, tmp_path, max_invalid=0.02).samples) == 98
    with pytest.raises(VrbenchError, match="at most 1 "):
        from_json(file, tmp_path, max_invalid=0.019)


@pytest.mark.parametrize(
    ("content", "fault"),
    [("[{]", "neither JSON nor JSON lines"), ('"a"', "is not a list"), ("[]", "0 of 0 samples"),
     ('{"conversations": []}\n{"a', "2 not a conversation")],
)  # fmt: skip
def test_files_that_are_none(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(VrbenchError, match=fault):
        from_json(tmp_path / "x.json", None)
    with pytest.raises(VrbenchError, match="there is no file of conversations"):
        from_json(tmp_path / "y.json", None)
    with pytest.raises(VrbenchError, match=r"no image folder .*none"):
        from_json(tmp_path / "x.json", tmp_path / "none")


def test_openai_s_names_and_parts() -> None:
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A cat."},
    ]
    assert parse_turns(messages, 1) == (Turn("What is it?", "A cat.", 1),)
    with pytest.raises(InvalidSample, match="a part of type 'video'"):
        parse_turns([{"role": "user", "content": [{"type": "video"}]}], 1)


def mixed(count: int) -> list[Conversation]:
    names = ["coco/{}.jpg", "gqa/{}.jpg", "vg/{}.jpg", ""]
    of = [names[min(i % 10, 3)].format(i) for i in range(count)]  # seven of ten are texts
    images = [(TrainingImage(name, b""),) if name else () for name in of]
    return [Conversation(str(i), (Turn("a", "b"),), shown) for i, shown in enumerate(images)]


@pytest.mark.parametrize("by_source", [True, False], ids=["stratified", "uniform"])
def test_a_smaller_share_is_a_part_of_a_larger_one(by_source: bool) -> None:
    samples = mixed(1000)

    def drawn(share: float, seed: int = 0) -> list[Conversation]:
        subset = "stratified" if by_source else "uniform"
        return select_share(samples, HubConversations(hub="x", share=share, subset=subset), seed)

    shares = {share: {s.id for s in drawn(share)} for share in (0.1, 0.25, 0.33, 1.0)}
    assert [len(found) for found in shares.values()] == [100, 250, 330, 1000]
    assert shares[0.1] < shares[0.25] < shares[0.33] < shares[1.0]
    assert {s.id for s in drawn(0.1, 1)} != shares[0.1]
    kept = drawn(0.1)
    assert [int(s.id) for s in kept] == sorted(int(s.id) for s in kept)
    if by_source:
        assert [sum(s.source == name for s in kept) for name in ("coco", "gqa", "vg", "text")] == [10, 10, 10, 70]
    with pytest.raises(VrbenchError, match="leaves none"):
        select_share(samples[:2], HubConversations(hub="x", share=0.1), 0)


ROWS = [
    {"id": "a", "image": {"bytes": picture(1), "path": "1.jpg"}, "question": "What?", "answer": "That"},
    {"id": "b", "image": None, "question": "Two and two?", "answer": "Four"},
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def hub_data(root: Path | None = None, **more: Any) -> HubConversations:
    return HubConversations(hub="org/set", data_root=str(root or ""), **more)


def put(root: Path, rows: list[dict[str, Any]], name: str = "org/set") -> Path:
    file = root / name / "default" / "train.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return root


def test_a_set_in_a_data_root(tmp_path: Path, cache: Path) -> None:
    found = from_hub(hub_data(put(tmp_path, ROWS)))
    assert [sample.turns for sample in found.samples] == [(Turn("What?", "That", 1),), (Turn("Two and two?", "Four"),)]
    assert [sample.id for sample in found.samples] == ["a", "b"]
    [shown] = found.samples[0].open_images()
    assert shown.tobytes() == Image.open(BytesIO(picture(1))).tobytes()
    with pytest.raises(VrbenchError, match=r"there is no file .*org/set/default/other\.parquet"):
        from_hub(hub_data(tmp_path, split="other"))


def test_messages_several_pictures_and_columns_of_other_names(tmp_path: Path, cache: Path) -> None:
    several = [{"bytes": picture(i), "path": None} for i in range(2)]
    rows = [{"pics": several, "chat": said("<image> or <image>?", "The first")}]
    root = put(tmp_path, rows)
    with pytest.raises(VrbenchError, match=r"no column question, answer; it has pics, chat; .* data\.turns"):
        from_hub(hub_data(root))
    found = from_hub(hub_data(root, image="pics", turns="chat"))
    assert found.samples[0].turns == (Turn("<image> or <image>?", "The first", 2),)
    assert [shown.size for shown in found.samples[0].open_images()] == [(30, 20)] * 2


def test_faulty_rows_are_counted(tmp_path: Path, cache: Path) -> None:
    short = {**ROWS[0], "image": {"bytes": picture(1)[:-100], "path": "1.jpg"}}
    root = put(tmp_path, [*ROWS, short, {**ROWS[1], "answer": ""}])
    found = from_hub(hub_data(root, most_left_out=0.5))
    assert found.skipped == {"empty answer": 1, "image broken": 1} and len(found.samples) == 2
    with pytest.raises(VrbenchError, match=r"row 2: image 1\.jpg cannot be opened"):
        from_hub(hub_data(root))
    (root / "org/set/default/train.parquet").write_bytes(b"PAR1")
    with pytest.raises(VrbenchError, match="cannot be read as parquet"):
        from_parquet(root / "org/set/default/train.parquet", hub_data(root), "x")


def test_a_set_of_the_hub_is_fetched_once_and_then_there_without_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(name: str, config: str, split: str, sha: str, to: Path) -> None:
        asked.append(f"{name} {config} {split} {sha}")
        to.write_bytes(parquet(ROWS))

    monkeypatch.setattr(hub, "commit", lambda name, revision="": "c" * 40)
    monkeypatch.setattr(hub, "download", download)
    with pytest.raises(VrbenchError, match=r"HF_HUB_OFFLINE .* data\.data_root .* org/set/default"):
        from_hub(hub_data())
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    found = from_hub(hub_data())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert from_hub(hub_data()).samples[1].turns == found.samples[1].turns
    assert asked == [f"org/set default train {'c' * 40}"] and "revision cccccccccccc" in found.origin


@pytest.mark.parametrize(
    ("name", "split", "why"),
    [
        ("lmms-lab-encoder/MME", "test", "the evaluation of mme "),
        ("LMMS-Lab-Encoder/mme", "validation", "it is held out for tests, and mme"),
        ("lmms-lab-encoder/MME", "testmini", "it is held out for tests"),
    ],
)
def test_what_is_measured_with_is_not_trained_on(name: str, split: str, why: str) -> None:
    with pytest.raises(VrbenchError, match=f"split {split} may not be trained on: {why}"):
        from_hub(HubConversations(hub=name, split=split))
    assert held_out_errors(name, "default", "train") == []
    assert held_out_errors("org/other", "default", split) == []
