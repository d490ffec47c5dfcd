"""Every score by its name: what it needs, what is told when it lacks that, and `vrbench layers` end to end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny, tiny_families
from vrbench import cli
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.io import digest_of
from vrbench.core.layers import STRATEGIES, LayerSet, select_layers
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.choose import ChosenLayers, choose
from vrbench.pruning.importance import importance, score_layers
from vrbench.pruning.importance_methods import IMPORTANCE_METHODS, importance_method
from vrbench.pruning.questions import DevQuestions, FolderQuestions
from vrbench.pruning.recipe import make_recipe
from vrbench.pruning.removal_methods import validate_criterion
from vrbench.pruning.scoring_context import ScoringContext

SMALL: dict[str, Any] = {"questions": DevQuestions(2, 2), "device": "cpu"}
FEW: dict[str, Any] = {"num_images": 2, "turns": 2, "device": "cpu"}
UNLIKE = ("gemma3", "llava_next", "mllama", "paligemma", "qwen3_vl")
"""Families that differ in where image tokens are and what attends to them."""
AT_WORK = [name for name, score in IMPORTANCE_METHODS.items() if "images" in score.needs]


@pytest.fixture(scope="module")
def adapter(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_adapter(tmp_path_factory.mktemp("tuned") / "adapter", tiny_llava, layers=(1, 3))


@pytest.fixture(scope="module", params=UNLIKE)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_families.save(request.param, tmp_path_factory.mktemp("family") / request.param))


@pytest.mark.parametrize("by", IMPORTANCE_METHODS)
def test_each_score_gives_a_number_a_layer(by: str, adapter: Path) -> None:
    found = importance(by, resolve_checkpoint(str(adapter)), **SMALL)
    assert (found.by, len(found.values)) == (by, tiny.DEPTH)
    assert min(found.values) >= 0 and max(found.values) > 0
    assert found.note.startswith("of adapter")
    assert ("against llava" in found.note) == ("base" in IMPORTANCE_METHODS[by].needs)
    assert ("on 2 dev images with 2 questions each" in found.note) == ("images" in IMPORTANCE_METHODS[by].needs)
    if by not in AT_WORK or by == "block-influence":  # nothing is left to chance
        assert importance(by, resolve_checkpoint(str(adapter)), **SMALL).values == found.values
    if by in AT_WORK:
        more = importance(by, resolve_checkpoint(str(adapter)), questions=DevQuestions(3, 2), device="cpu")
        assert more.values != found.values


def test_one_function_is_a_score_for_every_command(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def number(context: ScoringContext) -> list[float]:
        """Number of the layer.

        More is said here.
        """
        return [float(layer) for layer in range(context.ckpt.depth)]

    for version in (1, 2):
        monkeypatch.setitem(IMPORTANCE_METHODS, "number", None)  # so that it is removed afterwards
        importance_method("number", "answers", version=version)(number)
        recipe = make_recipe(makes="x", base="y", remove=1, by="number")
        given = {
            "makes": "x",
            "base": "y",
            "remove": 1,
            "by": "number",
            "outside_region": True,
            "pictures": 200,
            "turns": 6,
        }
        assert recipe.digest == digest_of(given | ({"by_version": 2} if version == 2 else {}))
    method = IMPORTANCE_METHODS["number"]
    assert (method.summary, method.requirements) == ("Number of the layer.", "a tuned checkpoint, images with answers")
    assert choose("number", 2, ckpt=str(adapter), **FEW).indices == (2, 3)
    assert "did you mean 'number'" in validate_criterion("numbr")[0]


def test_each_family_s_layers_are_measured_alone_as_in_a_batch(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ScoringContext(resolve_checkpoint(str(family)), None, DevQuestions(2, 1), "cpu")
    faults = {by: context.validate(by, IMPORTANCE_METHODS[by].needs) for by in AT_WORK}
    refused = {by: " ".join(messages) for by, messages in faults.items() if messages}
    together = {by: score_layers(by, context).values for by in AT_WORK if by not in refused}
    monkeypatch.setattr("vrbench.pruning.samples.ROWS_PER_PASS", 1)
    monkeypatch.setattr("vrbench.pruning.gradients.ROWS_PER_PASS", 1)
    for by, values in together.items():
        assert values == pytest.approx(score_layers(by, context).values, rel=2e-3, abs=1e-5), by
        assert len(values) == tiny_families.DEPTH and max(values) > 0
    beside = "needs image tokens; a mllama model uses cross attention and has none in its text"
    both_ways = "needs the answer to follow, but a paligemma model sees the answer with the prompt"
    expected = {
        "mllama": {by: f"{by} {beside}" for by in ("attention", "multimodal-block-influence")},
        "paligemma": {by: f"{by} {both_ways}" for by in ("fisher", "taylor")},
    }
    assert refused == expected.get(context.ckpt.family, {})


class TestFaults:
    def test_an_unknown_score_is_answered_with_the_nearest(self, adapter: Path) -> None:
        with pytest.raises(VrbenchError, match=r"score 'fischer' is unknown; did you mean 'fisher'\?"):
            importance("fischer", resolve_checkpoint(str(adapter)))

    def test_what_a_score_lacks_is_told_before_weights_are_loaded(
        self, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vrbench.models.load._load", lambda *_: pytest.fail("weights were loaded"))
        ckpt = resolve_checkpoint(str(tiny_llava))
        own = FolderQuestions(tmp_path, 2)
        for by, words, given in (
            ("change", "llava does not record what its layers were tuned from; name it with --base", {}),
            ("lora-norm", "lora-norm needs a LoRA adapter, and llava has none", {}),
            (
                "fisher",
                "fisher needs right answers, which your own images do not have",
                {"questions": own},
            ),
            ("angular", "contains no image", {"questions": own}),
            ("angular", "is not a folder", {"questions": FolderQuestions(tmp_path / "none", 2)}),
            ("angular", "num_images is 0; it must be at least 1", {"questions": DevQuestions(0, 2)}),
            ("angular", "turns is 0; it must be at least 1", {"questions": DevQuestions(2, 0)}),
            ("angular", "dtype is 'int8'; it is one of float32, bfloat16", {"dtype": "int8"}),
            ("angular", "device 'tpu' is unknown", {"device": "tpu"}),
        ):
            with pytest.raises(VrbenchError, match=words):
                importance(by, ckpt, **given)

    def test_broken_weights_give_no_score(self, whole: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(whole / "model.safetensors")
        name = next(n for n in tensors if n.endswith("layers.2.mlp.down_proj.weight"))
        tensors[name][0, 0] = float("nan")
        save_file(tensors, whole / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(VrbenchError, match=r"angular of whole is not a finite number for layers \[2, 3\]"):
            importance("angular", resolve_checkpoint(str(whole)), **SMALL)


class TestChoose:
    @pytest.mark.parametrize("by", ["angular", "change", "lora-norm"])
    def test_the_highest_scores_are_chosen_and_read_back(self, by: str, adapter: Path, tmp_path: Path) -> None:
        file, plot = tmp_path / "layers.json", tmp_path / "scores.png"
        made = choose(by, 2, ckpt=str(adapter), out=file, plot=plot, **FEW)
        order = sorted(range(tiny.DEPTH), key=lambda layer: made.scores[layer])
        assert set(made.indices) == set(order[-2:])
        assert select_layers(str(file), tiny.DEPTH) == LayerSet.of(made.indices, tiny.DEPTH)
        assert ChosenLayers.model_validate_json(file.read_text()) == made
        assert made.ckpt is not None and made.ckpt.digest == resolve_checkpoint(str(adapter)).digest
        assert (made.base is not None) == ("base" in IMPORTANCE_METHODS[by].needs)
        assert plot.read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("name", STRATEGIES)
    def test_heuristics_need_no_checkpoint(self, name: str, tmp_path: Path) -> None:
        made = choose(name, 3, depth=12, out=tmp_path / "a.json")
        assert select_layers(str(tmp_path / "a.json"), 12) == select_layers(f"{name}:3", 12)
        assert (made.scores, made.ckpt) == ((), None)

    def test_random_says_its_seed(self) -> None:
        assert choose("random", 3, depth=12).note == "drawn with seed 0, since none was named"
        seeded = choose("random", 3, depth=12, seed=7)
        assert seeded.note == "drawn with seed 7"
        assert LayerSet.of(seeded.indices, 12) == select_layers("random:3@7", 12) != select_layers("random:3", 12)

    def test_of_equal_scores_the_lower_layer_is_chosen(self, adapter: Path) -> None:
        assert choose("lora-norm", 3, ckpt=str(adapter)).indices == (0, 1, 3)

    def test_a_named_base_is_what_weights_are_compared_with(self, adapter: Path, tmp_path: Path) -> None:
        other = tiny.save_llava(tmp_path / "other", seed=5)
        made = choose("change", 1, ckpt=str(adapter), base=str(other))
        assert made.base is not None and made.base.id == "other"
        assert min(made.scores) > 7  # no layer is the same there
        assert made.scores != choose("change", 1, ckpt=str(adapter)).scores

    def test_all_faults_are_told_at_once(self, tiny_llava: Path) -> None:
        with pytest.raises(VrbenchError) as told:
            choose(
                "change",
                9,
                ckpt=str(tiny_llava),
                depth=5,
                out=Path("a.txt"),
                plot=Path("b.gif"),
                device="tpu",
            )
        expected = (
            "depth is 5, but llava has 4 decoder layers",
            "9 layers were requested; a model of depth 4 has 1 to 4",
            "out is 'a.txt'; the file of a layer set ends in .json",
            "plot is 'b.gif'; a plot ends in .png or .svg",
            "device 'tpu' is unknown",
            "llava does not record what its layers were tuned from",
        )
        found = error_messages(told.value)
        assert [words for words, sentence in zip(expected, found, strict=True) if not sentence.startswith(words)] == []

    def test_a_base_of_another_depth_is_told_with_the_other_faults(self, adapter: Path, tmp_path: Path) -> None:
        deeper = tiny.save_llava(tmp_path / "deeper", depth=5)
        with pytest.raises(VrbenchError) as told:
            choose("change", 9, ckpt=str(adapter), base=str(deeper))
        assert [sentence[:8] for sentence in error_messages(told.value)] == ["9 layers", "adapter "]

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (("change", 2, {}), "change is measured on a tuned checkpoint; name it with --ckpt"),
            (("top", 2, {}), "top needs the number of layers; give --depth"),
            (("top", 9, {"depth": 8}), "9 layers were requested; a model of depth 8 has 1 to 8"),
            (("top", 0, {"depth": 8}), "0 layers were requested; a model of depth 8 has 1 to 8"),
            (("top", 2, {"depth": 0}), "depth is 0; it must be at least 1"),
            (("top", 2, {"depth": 8, "plot": Path("a.png")}), "top has no scores to plot"),
            (("block-influense", 2, {}), "is unknown; did you mean 'block-influence'"),
            (("change", 2, {"ckpt": "pocket/nope"}), "no checkpoint 'pocket/nope'"),
            (("change", 2, {"ckpt": "pocket/full", "base": "pocket/nope"}), "no checkpoint 'pocket/nope'"),
        ],
    )
    def test_each_fault(self, given: tuple[str, int, dict[str, Any]], words: str) -> None:
        name, n, more = given
        with pytest.raises(VrbenchError, match=words):
            choose(name, n, **more)


class TestCommand:
    @pytest.fixture
    def call(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
        def called(*command: str) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", ["vrbench", "layers", *command])
            with pytest.raises(SystemExit) as exit_:
                cli.main()
            told = capsys.readouterr()
            return int(exit_.value.code or 0), told.out, told.err

        return called

    def test_a_table_with_the_set_as_recipes_take_it(self, call: Callable[..., Any], adapter: Path) -> None:
        code, out, _ = call("lora-norm", "--num-layers", "2", "--ckpt", str(adapter))
        lines = out.splitlines()
        assert code == 0
        assert lines[0] == "2 of 4 layers by lora-norm, of adapter"
        assert lines[1] == "in a recipe: --set tune.layers=1,3"
        assert [line.split()[0] for line in lines if line.endswith("*")] == ["1", "3"]

    def test_the_published_full_model(self, call: Callable[..., Any], tmp_path: Path) -> None:
        file = tmp_path / "norm.json"
        code, out, err = call("lora-norm", "--num-layers", "8", "--ckpt", "pocket/full", "--json", "--out", str(file))
        made = json.loads(out)
        assert (code, len(made["indices"]), len(made["scores"]), made["depth"]) == (0, 8, 30, 30)
        assert min(made["scores"]) > 0.1
        assert list(select_layers(str(file), 30)) == made["indices"]
        assert f"file: {file}" in err

    def test_a_fault_is_one_line(self, call: Callable[..., Any]) -> None:
        code, _, err = call("change", "--num-layers", "2")
        assert (code, err.count("\n")) == (2, 1)


def test_questions_are_counted_as_they_are_asked() -> None:
    assert [len(of) for of in DevQuestions(3, 2)] == [2, 2, 2]
    assert str(DevQuestions(3, 2)) == "3 dev images with 2 questions each"
