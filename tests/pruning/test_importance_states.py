"""Scores from hidden states and attention, streamed, are those of each sample alone with everything kept."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.pruning import slow
from tests.pruning.slow import Seen, cosine, scores
from vrbench.core.errors import VrbenchError
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning import samples as streaming
from vrbench.pruning.hidden_states import block_distances
from vrbench.pruning.questions import DevQuestions, FolderQuestions, ImageQuestion
from vrbench.pruning.samples import Samples

QUESTIONS = DevQuestions(3, 6)
DEPTH = 4


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> LlavaModel:
    loaded = load_vlm(resolve_checkpoint(str(tiny_llava)))
    assert isinstance(loaded, LlavaModel)
    return loaded


@pytest.fixture(scope="module")
def seen(vlm: LlavaModel) -> list[Seen]:
    return slow.seen(vlm, list(QUESTIONS))


@pytest.fixture
def stream(vlm: LlavaModel) -> Samples:
    return Samples(vlm, QUESTIONS)


def influence(one: Seen, layer: int, chosen: torch.Tensor) -> float:
    """1 less the mean cosine over some tokens, token by token."""
    pairs = zip(one.entering[layer][chosen], one.leaving[layer][chosen], strict=True)
    return 1 - sum(cosine(x, y) for x, y in pairs) / int(chosen.sum())


def test_samples_share_tokens_in_what_is_streamed(stream: Samples) -> None:
    shared = [each for each in stream.passes() if len(each.paths) > len(each.is_image)]
    assert shared  # or the tests below would not see how such tokens count
    assert stream.count == 18


def test_block_influence(stream: Samples, seen: list[Seen]) -> None:
    direct = slow.mean([[influence(s, i, s.ids >= 0) for i in range(DEPTH)] for s in seen])
    assert scores("block-influence", stream) == pytest.approx(direct, abs=1e-5)
    assert len({round(value, 3) for value in direct}) == DEPTH


@torch.inference_mode()
def test_block_influence_of_zero_states_as_published_code_has_it(tiny_llava: Path) -> None:
    """The zero states are those of a token whose embedding is zero; only the first layer meets them."""
    vlm = load_vlm(resolve_checkpoint(str(tiny_llava)))
    assert isinstance(vlm, LlavaModel)
    zero = vlm.tokenizer("a", add_special_tokens=False)["input_ids"][0]
    vlm.model.get_input_embeddings().weight.data[zero] = 0
    seen, norm = slow.seen(vlm, list(QUESTIONS)), vlm.language_model.norm.double()

    def influences(one: Seen, layer: int, of_zeros: float | None) -> list[float]:
        leaving = norm(one.leaving[layer]) if layer == DEPTH - 1 else one.leaving[layer]
        pairs = zip(one.entering[layer], leaving, strict=True)
        found = [cosine(x, y) if float(x.norm()) else of_zeros for x, y in pairs]
        return [1 - value for value in found if value is not None]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    by_token = [mean([v for s in seen for v in influences(s, i, 0.5)]) for i in range(DEPTH)]
    by_sample = slow.mean([[mean(influences(s, i, None)) for i in range(DEPTH)] for s in seen])
    vlm.language_model.norm.float()
    ours, shortgpt, visual_region = (
        scores(f"block-influence{code}", Samples(vlm, QUESTIONS)) for code in ("", "-shortgpt", "-visual-region")
    )
    assert shortgpt == pytest.approx(by_token, abs=1e-5) and visual_region == pytest.approx(by_sample, abs=1e-5)
    assert ours[0] > shortgpt[0] + 1e-3 and ours[0] > visual_region[0] + 1e-3 and ours[-1] != shortgpt[-1]
    assert ours[1:-1] == pytest.approx(visual_region[1:-1], abs=1e-9)


def test_multimodal_block_influence(stream: Samples, seen: list[Seen]) -> None:
    def of(one: Seen, layer: int) -> float:
        return (influence(one, layer, one.is_image) + influence(one, layer, ~one.is_image)) / 2

    direct = slow.mean([[of(s, i) for i in range(DEPTH)] for s in seen])
    found = scores("multimodal-block-influence", stream)
    assert found == pytest.approx(direct, abs=1e-5)
    assert found != pytest.approx(scores("block-influence", stream), abs=1e-3)


def test_angular_distance_is_that_of_every_token(stream: Samples, seen: list[Seen]) -> None:
    def of(one: Seen, layer: int) -> float:
        pairs = zip(one.entering[layer], one.leaving[layer], strict=True)
        return sum(math.acos(cosine(x, y)) / math.pi for x, y in pairs) / len(one.ids)

    direct = slow.mean([[of(s, i) for i in range(DEPTH)] for s in seen])
    assert scores("angular", stream) == pytest.approx(direct, abs=1e-5)


def test_block_distances_are_of_the_last_token_over_every_block(stream: Samples, seen: list[Seen]) -> None:
    found = block_distances(stream, 3)
    assert [len(of) for of in found] == [4, 3, 2]
    for n, of in enumerate(found, 1):
        for start, value in enumerate(of):
            each = [cosine(s.entering[start][-1], s.leaving[start + n - 1][-1]) for s in seen]
            direct = sum(math.acos(max(-1.0, min(1.0, c))) / math.pi for c in each) / len(seen)
            assert value == pytest.approx(direct, abs=1e-5), (n, start)


@torch.inference_mode()
def test_the_final_norm_counts_in_blocks_that_end_with_the_last_layer(stream: Samples, seen: list[Seen]) -> None:
    plain, normed = block_distances(stream, 2), block_distances(stream, 2, final_norm=True)
    assert [p[:-1] for p in plain] == [n[:-1] for n in normed]
    norm = stream.vlm.language_model.norm
    each = [cosine(s.entering[2][-1], norm(s.leaving[3][-1].float()).double()) for s in seen]
    assert normed[1][-1] == pytest.approx(sum(math.acos(c) / math.pi for c in each) / len(seen), abs=1e-5)


def test_block_distances_over_all_tokens_are_the_layers_own(stream: Samples) -> None:
    assert block_distances(stream, 1, "all")[0] == pytest.approx(scores("angular", stream), abs=1e-9)


def attended(one: Seen, layer: int) -> float:
    """What each text token after the picture's first gives to the picture, head by head."""
    begins = int(one.is_image.nonzero()[0])
    queries = [t for t in range(len(one.ids)) if t > begins and not one.is_image[t]]
    heads = one.attention[layer].double()
    given = [float(head[query][one.is_image].sum()) for head in heads for query in queries]
    return sum(given) / len(given)


def test_image_attention(stream: Samples, seen: list[Seen]) -> None:
    direct = slow.mean([[attended(s, i) for i in range(DEPTH)] for s in seen])
    assert scores("attention", stream) == pytest.approx(direct, abs=1e-5)
    assert all(0 < value < 1 for value in direct) and len({round(value, 4) for value in direct}) == DEPTH


def test_the_model_is_left_as_it_was(vlm: LlavaModel, stream: Samples) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules())

    before = hooks(), vlm.language_model.config._attn_implementation
    scores("attention", stream)
    scores("block-influence", stream)
    assert (hooks(), vlm.language_model.config._attn_implementation) == before
    assert before[1] == "sdpa"


def test_a_text_without_image_tokens_has_no_attention_to_them(vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(of: list[ImageQuestion]) -> streaming.ForwardPass:
        paths = [(i, torch.arange(3)) for i in range(len(of))]
        return streaming.ForwardPass(paths, torch.zeros(len(of), 3, dtype=torch.bool), lambda: None)

    monkeypatch.setattr(Samples, "passes", lambda self: iter([blind(of) for of in QUESTIONS]))
    with pytest.raises(VrbenchError, match="a llava model has no image tokens in its text"):
        scores("attention", Samples(vlm, QUESTIONS))


def test_what_is_held_does_not_grow_with_the_samples(vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "IMAGES_PER_PASS", 2)
    pictures: list[weakref.ref[object]] = []
    most = []

    class Watched:
        def __iter__(self) -> Iterator[list[ImageQuestion]]:
            for of in DevQuestions(12, 1):
                pictures.append(weakref.ref(of[0].image))
                yield of

    stream = Samples(vlm, Watched())
    for each in stream.passes():
        each.run()
        gc.collect()
        most.append(sum(picture() is not None for picture in pictures))
    assert len(pictures) == 12 and max(most) <= 3


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for i, of in enumerate(DevQuestions(5, 1)):
            (tmp_path / "in").mkdir(exist_ok=True)
            of[0].image.save(tmp_path / "in" / f"{i}.png")
        (tmp_path / "notes.txt").write_text("no picture")
        return tmp_path

    def test_a_folder_s_pictures_are_asked_the_prompt(self, vlm: LlavaModel, folder: Path) -> None:
        questions = FolderQuestions(folder, 10, "Say what is there.")
        assert [q.prompt for of in questions for q in of] == ["Say what is there."] * 5
        seen = slow.seen(vlm, list(questions))
        direct = slow.mean([[influence(s, i, s.ids >= 0) for i in range(DEPTH)] for s in seen])
        assert scores("block-influence", Samples(vlm, questions)) == pytest.approx(direct, abs=1e-5)

    def test_some_of_them_are_drawn(self, folder: Path) -> None:
        some, same, other = (FolderQuestions(folder, 2, seed=seed).files for seed in (1, 1, 2))
        assert len(some) == 2 and some == same != other
        assert "drawn with seed 1" in str(FolderQuestions(folder, 2, seed=1))
        assert ", drawn" not in str(FolderQuestions(folder, 5))

    def test_what_is_no_picture_is_named(self, folder: Path) -> None:
        (folder / "broken.jpg").write_bytes(b"text")
        with pytest.raises(VrbenchError, match=r"broken\.jpg cannot be read as an image"):
            list(FolderQuestions(folder, 10))
        [fault] = FolderQuestions(folder, 10).validate()  # before a model is loaded
        assert fault.endswith(
            "broken.jpg cannot be read as an image: UnidentifiedImageError: cannot identify image file"
        )
