"""Checkpoints of one run share requests, features and the base's weights, and get the answers of separate runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.models.test_load import layered
from vrbench.core import schemas
from vrbench.core.schemas import LineageStep
from vrbench.evaluation import built_task
from vrbench.evaluation.built_task import RequestCache, select_items
from vrbench.evaluation.evaluate import run_all
from vrbench.evaluation.failures import PartialFailureError
from vrbench.models import load
from vrbench.models.llava_model import LlavaModel

TASKS = "piqa,mme"


@pytest.fixture(scope="module")
def checkpoints(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A base, an adapter, another base, a pruned model and another adapter."""
    made = tmp_path_factory.mktemp("checkpoints")
    pruned = LineageStep(kind="pruned", layers="1", depth=tiny.DEPTH)
    folders = [
        tiny_llava,
        tiny.save_adapter(made / "adapter", tiny_llava),
        tiny.save_llava(made / "other", seed=5),
        layered(made / "pruned", tiny_llava, pruned, depth=tiny.DEPTH - 1),
        tiny.save_adapter(made / "adapter-2", tiny_llava, layers=(0,), seed=3),
    ]
    return [str(folder) for folder in folders]


def run(checkpoints: list[str], data_root: Path, out: Path, **options: Any) -> list[schemas.Run]:
    options = {"limit": 8, "device": "cpu", "show_progress": False, **options}
    return run_all(checkpoints, TASKS, data_root=data_root, out=out, **options)


def results(runs: list[schemas.Run]) -> list[Any]:
    """Of each run what it scored, with the log-likelihoods and texts to the last bit."""
    dropped = {"seconds"}
    return [(of.samples, [result.model_dump(exclude=dropped) for result in of.record.results]) for of in runs]


@pytest.fixture(scope="module")
def separate(checkpoints: list[str], data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each checkpoint scores in a run of its own."""
    out = tmp_path_factory.mktemp("separate")
    return [one for checkpoint in checkpoints for one in results(run([checkpoint], data_root, out))]


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    calls: list[Any] = []
    function = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *arguments: (calls.append(arguments), function(*arguments))[1])
    return calls


def test_answers_are_those_of_separate_runs_and_each_task_is_built_once(
    checkpoints: list[str], separate: list[Any], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = counted(monkeypatch, built_task, "build_task")
    read = counted(monkeypatch, load, "_load_whole")
    encoded = counted(monkeypatch, LlavaModel, "encode_pixels")
    assert results(run(checkpoints, data_root, tmp_path)) == separate
    assert [spec.id for spec, *_ in built] == ["piqa", "mme"]
    assert len(read) == 3  # the base, the other one, and the base again
    images: Counter[int] = Counter()
    for vlm, pixels in encoded:
        images[id(vlm)] += len(pixels)
    one, two, three, base, other = sorted(images.values())  # each model is asked for the size of its features
    assert one == two == three == 1 and base == other > 2  # all images once for each tower


def test_an_error_in_one_checkpoint_changes_nothing_for_the_next(
    checkpoints: list[str], separate: list[Any], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_overlay, calls = load.apply_overlay, []

    def failing(*arguments: Any) -> Any:
        model = apply_overlay(*arguments)
        calls.append(model)
        if len(calls) == 1:
            raise RuntimeError("made to fail")
        return model

    monkeypatch.setattr(load, "apply_overlay", failing)
    with pytest.raises(PartialFailureError) as failed:
        run(checkpoints, data_root, tmp_path)
    assert results(failed.value.runs) == [separate[0], *separate[2:]]


def test_requests_that_do_not_fit_are_built_again(data_root: Path, vlm: LlavaModel) -> None:
    from tests.task_data import load_task
    from vrbench.tasks import registry

    (spec,) = registry.select("piqa", registry.load())
    subtasks = select_items(spec, load_task(spec, data_root), 4, seed=0)
    vlm.prompts_digest = "known"
    try:
        for budget, is_kept in ((0, False), (10**6, True)):
            cache = RequestCache(budget)
            first, again = (cache.build_requests(spec, subtasks, vlm) for _ in range(2))
            assert (again[1] is first[1]) == is_kept
            assert again[2] == first[2]
        vlm.prompts_digest = "other"
        assert cache.build_requests(spec, subtasks, vlm)[1] is not first[1]
    finally:
        vlm.prompts_digest = ""
