"""With fixed shapes an answer is the same bit for bit, in every dtype, whatever else is computed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import forked
from tests.evaluation.test_engine import requests
from tests.evaluation.test_ranks import outcome
from tests.tiny import SIDE, llava, tokenizer
from vrbench.core.errors import VrbenchError
from vrbench.core.run_storage import load_run
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import run_all
from vrbench.evaluation.ranks import Ranks
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, answer_conditions
from vrbench.models import fixed_shapes, generation
from vrbench.models.decoding import StopCriteria
from vrbench.models.fixed_shapes import key_count, slot_count
from vrbench.models.generation import AnswerGenerator
from vrbench.models.llava_model import LlavaModel
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.packing import one_row_per_sequence
from vrbench.models.prompt_reading import PackedPrompts


@pytest.fixture(autouse=True)
def few_slots_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several classes of short prompts, and steps that take little time."""
    monkeypatch.setattr(fixed_shapes, "MIN_KEYS", 16)
    monkeypatch.setattr(fixed_shapes, "CPU_SLOTS", 4)


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def vlm(request: pytest.FixtureRequest) -> LlavaModel:
    from transformers import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return LlavaModel(llava().to(getattr(torch, request.param)), tokenizer(), processor)


def asked_of(vlm: LlavaModel) -> list[Request]:
    """Those of the engine's tests, one text that is split in two ways, and a prompt with other limits."""
    text = tuple(vlm.tokenizer.encode("Question: what is it? Answer: a dog"))
    likely = [LogLikelihoodRequest(text[:-n], text[-n:]) for n in (1, 4)]
    return [*requests(vlm), *likely, *(GenerationRequest(vlm.prompt("No picture?"), (), n, ()) for n in (3, 40))]


def answer(vlm: LlavaModel, store: Path, asked: list[Request], batch_size: int | str = "auto") -> dict[str, Any]:
    """Key -> what is stored."""
    with AnswerStore(store, "c") as opened:
        InferenceEngine(vlm, opened, batch_size, show_progress=False, deterministic=True).answer(asked)
        conditions = answer_conditions(vlm, deterministic=True)
        return opened.get([request.key(conditions) for request in asked])


def test_answers_are_bitwise_the_same_in_any_batch_and_order_and_after_an_interruption(
    vlm: LlavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_of(vlm)
    shuffled = random.Random(1).sample(asked, len(asked))
    expected = answer(vlm, tmp_path / "all.sqlite", asked)
    assert len(set(map(str, expected.values()))) > 15
    assert answer(vlm, tmp_path / "64.sqlite", asked, 64) == expected
    assert answer(vlm, tmp_path / "shuffled.sqlite", shuffled) == expected
    for request in shuffled[::8]:
        alone = answer(vlm, tmp_path / "alone.sqlite", [request])
        assert alone.items() <= expected.items()

    put, puts = AnswerStore.put, Counter[str]()

    def dies_at_the_ninth(self: AnswerStore, *arguments: Any) -> None:
        puts["n"] += 1
        if puts["n"] == 9:
            raise KeyboardInterrupt
        put(self, *arguments)

    monkeypatch.setattr(AnswerStore, "put", dies_at_the_ninth)
    with pytest.raises(KeyboardInterrupt):
        answer(vlm, tmp_path / "resumed.sqlite", shuffled, 3)
    monkeypatch.undo()
    with AnswerStore(tmp_path / "resumed.sqlite", "c") as store:
        assert 0 < len(store) < len(expected)
    assert answer(vlm, tmp_path / "resumed.sqlite", asked, 1) == expected


@pytest.mark.parametrize("vlm", ["bfloat16"], indirect=True)
def test_the_shapes_of_all_passes_are_those_of_each_request_alone(
    vlm: LlavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shapes(asked: list[Request], name: str) -> set[Any]:
        seen: set[Any] = set()
        linear, attend = torch.nn.functional.linear, torch.nn.functional.scaled_dot_product_attention

        def see(kernel: Any, *given: Any, **settings: Any) -> Any:
            seen.add(tuple(tensor.shape for tensor in given if isinstance(tensor, torch.Tensor)))
            return kernel(*given, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "linear", lambda *a, **k: see(linear, *a, **k))
            patch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: see(attend, *a, **k))
            answer(vlm, tmp_path / name, asked)
        return seen

    asked = asked_of(vlm)
    alone = [shapes([one], f"{n}.sqlite") for n, one in enumerate(asked)]
    assert len(set().union(*alone)) > 20
    together = shapes(asked, "together.sqlite")
    assert together == set().union(*alone)
    steps = {given[1][2] for given in together if len(given[0]) == 4 and given[0][0] == fixed_shapes.CPU_SLOTS}
    assert steps and all(keys & (keys - 1) == 0 for keys in steps)  # a power of 2
    assert shapes(asked[-4:-2], "split.sqlite") == alone[-4] | alone[-3]  # the text that is split in two ways


def answer_share(folder: str, out: str, rank: int, size: int) -> None:
    """What `vrbench run --deterministic --dtype bfloat16` does as one of several processes."""
    run_all([folder], "pocket_mme,pocket_facts", limit=8, device="cpu", dtype="bfloat16", deterministic=True, out=out,
            ranks=Ranks(rank, size, rank, size), show_progress=False)  # fmt: skip


def test_two_processes_give_the_answers_of_one_in_bfloat16_and_the_record_says_how(
    tiny_llava: Path, tmp_path: Path
) -> None:
    answer_share(str(tiny_llava), str(tmp_path / "alone"), 0, 1)
    other = forked.start(answer_share, str(tiny_llava), str(tmp_path / "both"), 1, 2)
    answer_share(str(tiny_llava), str(tmp_path / "both"), 0, 2)
    assert forked.ended(other) == 0
    assert outcome(tmp_path / "both") == outcome(tmp_path / "alone")
    (file,) = (tmp_path / "both").glob("*/*/run.json")
    assert load_run(file.parent).record.settings.deterministic


def test_answers_and_runs_without_fixed_shapes_are_not_reused(tiny_llava: Path, tmp_path: Path) -> None:
    def run(deterministic: bool) -> tuple[int, str]:
        (run,) = run_all([str(tiny_llava)], "pocket_facts", limit=4, device="cpu", out=tmp_path, show_progress=False,
                         deterministic=deterministic)  # fmt: skip
        return run.results[0].asked, run.record.inputs_digest

    (plain, first), (fixed, second) = run(False), run(True)
    assert plain == fixed > 0 and first != second


@pytest.mark.parametrize("vlm", ["bfloat16"], indirect=True)
def test_the_model_of_the_device_counts_with_fixed_shapes_alone(
    vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fixed = (answer_conditions(vlm, on) for on in (False, True))
    assert all(plain[kind] != fixed[kind] for kind in plain)
    monkeypatch.setattr("vrbench.evaluation.requests.device_name", lambda _: "another")
    assert answer_conditions(vlm) == plain
    assert all(answer_conditions(vlm, True)[kind] != fixed[kind] for kind in fixed)


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Slots of every step."""
    used: list[int] = []
    step = generation._Step.__call__
    monkeypatch.setattr(generation._Step, "__call__", lambda self, n, width: used.append(n) or step(self, n, width))
    yield used


@pytest.mark.parametrize("vlm", ["float32"], indirect=True)
def test_slots_that_compute_differently_are_not_used_together(
    vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch, slots: list[int]
) -> None:
    def answers() -> dict[int, str]:
        slots.clear()
        rows = one_row_per_sequence([vlm.encode("Why?"), vlm.encode("Is it red?")])
        stops = {n: StopCriteria(5) for n in range(2)}
        generator = AnswerGenerator(vlm, PackedPrompts(vlm, rows), stops, MemoryBudget(None, 99, 9, True))
        return {n: text for done in generator for n, text in done.items()}

    expected = answers()
    assert set(slots) == {fixed_shapes.CPU_SLOTS}
    run = generation._Step._run

    def otherwise_in_the_last(self: Any, used: int, width: int) -> Any:
        logits = run(self, used, width)
        logits[fixed_shapes.CPU_SLOTS - 1 :] += 1e-3
        return logits

    monkeypatch.setattr(generation._Step, "_run", otherwise_in_the_last)
    assert answers() == expected
    assert slots[0] == fixed_shapes.CPU_SLOTS and set(slots[1:]) == {1}


@pytest.mark.parametrize("vlm", ["float32"], indirect=True)
def test_memory_that_runs_out_ends_a_task_and_changes_no_shape(
    vlm: LlavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(LlavaModel, "hidden_states", full)
    with pytest.raises(VrbenchError, match="--deterministic allows no smaller one; use a larger GPU"):
        answer(vlm, tmp_path / "a.sqlite", asked_of(vlm))


def test_slots_take_a_share_of_the_whole_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [key_count(tokens) for tokens in (5, 127, 128, 300, 4096)] == [16, 128, 256, 512, 8192]
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    gpu: Any = SimpleNamespace(device=torch.device("cuda:1"))
    found = [slot_count(gpu, keys, 2**17) for keys in (128, 1024, 2048, 8192, 2**20)]
    assert found == [64, 64, 32, 8, 1]
