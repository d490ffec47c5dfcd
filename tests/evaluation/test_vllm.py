"""vLLM as the backend, up to its call: `tests/mock_vllm` stands in for it; `test_vllm_gpu.py` asks the real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from benchmarks import backends, speed, speed_vllm
from tests import tiny, tiny_families
from tests.evaluation.made import noise
from vrbench.checkpoints.families import FAMILIES
from vrbench.core import provenance, schemas
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.schemas import LineageStep
from vrbench.evaluation import requests, vllm_checks
from vrbench.evaluation.evaluate import evaluate, run_all
from vrbench.evaluation.ranks import Ranks
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, answer_conditions, request_image
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import plan
from vrbench.evaluation.vllm_backend import VllmBackend, engine_arguments, served_vlm
from vrbench.models.load import load_model, load_vlm, load_without_weights
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.resolve import resolve_checkpoint
from vrbench.models.whole_folder import save_whole

MOCK = Path(__file__).parents[1] / "mock_vllm"
LETTERS = Path(__file__).parents[2] / "benchmarks" / "backend_tasks" / "pocket_letters.yaml"
BUDGET = MemoryBudget(None, 1, 1)


@pytest.fixture
def mock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The mock's `LLM`, in place of vLLM, on a CPU."""
    monkeypatch.syspath_prepend(MOCK)
    monkeypatch.setattr(vllm_checks, "DEVICES", ("cpu",))
    provenance.package_version.cache_clear()
    import vllm

    assert vllm.IS_MOCK
    vllm.LLM.made.clear()
    yield vllm.LLM
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]
    provenance.package_version.cache_clear()


@pytest.fixture(scope="module")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA whose weights have the hub's names, which vLLM reads as it is; not to be written to."""
    folder = tmp_path_factory.mktemp("vllm")
    first = tiny.save_llava(folder / "first")
    save_whole(load_model(resolve_checkpoint(str(first)), torch.float32), first, folder / "llava")
    return folder / "llava"


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task whose options are one token of a tokenizer without merges."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / LETTERS.name).write_text(LETTERS.read_text() + 'delimiter: ""\n')
    return folder


def measure(ckpt: Path, out: Path, tasks: str, **options: Any) -> schemas.Run:
    return evaluate(ckpt, tasks, out=out, device="cpu", show_progress=False, **options)


def removed(base: Path, folder: Path) -> Path:
    """Write a checkpoint that lacks layer 2 of a base of four layers."""
    step = LineageStep(kind="pruned", layers="2", depth=4)
    return tiny.mark(folder, str(base), resolve_checkpoint(str(base)).digest, [step], depth=3)


def responses(run: schemas.Run) -> dict[str, list[Any]]:
    return {task: [sample.responses for sample in samples] for task, samples in run.samples.items()}


class TestRun:
    def test_it_gives_the_answers_of_the_other_engine_and_says_who_gave_them(
        self, mock: Any, tiny_llava: Path, letters: Path, data_root: Path, tmp_path: Path
    ) -> None:
        options: dict[str, Any] = {"include_path": letters, "limit": 12, "data_root": data_root}
        tasks = "mme,pocket_letters"
        ours = measure(tiny_llava, tmp_path, tasks, **options)
        theirs = measure(tiny_llava, tmp_path, tasks, backend="vllm", dtype="bfloat16", gpu_memory=0.4, **options)
        assert responses(theirs)["mme"] == responses(ours)["mme"]
        for a, b in zip(theirs.samples["pocket_letters"], ours.samples["pocket_letters"], strict=True):
            assert a.loglikelihoods == pytest.approx(b.loglikelihoods, abs=1e-3) and a.answer == b.answer
        assert "| llava        | mme            |      12 |              0 |" in backends.page(
            [[ours], [ours], [theirs]]
        )
        record = theirs.record
        assert (record.settings.backend, record.settings.environment["vllm"]) == ("vllm", "0.21.0")
        assert [made.packages["vllm"] for made in record.provenance.answered] == ["0.21.0"]
        assert ours.record.settings.backend == "vrbench" and "vllm" not in ours.record.settings.environment
        assert all(result.reused == 0 for result in record.results) and theirs.path != ours.path
        (llm,) = mock.made
        assert llm.ended and llm.folder == str(tiny_llava)
        assert llm.arguments == {
            "dtype": "bfloat16", "max_model_len": 2048, "gpu_memory_utilization": 0.4, "generation_config": "vllm",
            "mm_processor_kwargs": {"backend": "pil"}, "limit_mm_per_prompt": {"video": 0}, "max_num_seqs": 256,
            "enforce_eager": False, "load_format": "auto",
        }  # fmt: skip

    def test_it_is_finished_without_vllm_and_stored_answers_are_used_again(
        self, mock: Any, tiny_llava: Path, data_root: Path, tmp_path: Path
    ) -> None:
        options: dict[str, Any] = {
            "backend": "vllm",
            "dtype": "bfloat16",
            "data_root": data_root,
            "batch_size": 3,
            "limit": 8,
        }
        first = measure(tiny_llava, tmp_path, "mme", **options)
        assert measure(tiny_llava, tmp_path, "mme", **options) == first
        assert first.path is not None
        (first.path / "run.json").unlink()
        again = measure(tiny_llava, tmp_path, "mme", **options)
        assert again.result("mme").asked == 0 and again.samples == first.samples
        assert [llm.arguments["max_num_seqs"] for llm in mock.made] == [3]

    def test_pruned_and_tuned_checkpoints_are_whole_folders(
        self, mock: Any, tiny_llava: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path / "cache"))
        tuned = tiny.save_adapter(tmp_path / "tuned", tiny_llava)
        removed(tuned, tmp_path / "pruned")
        options: dict[str, Any] = {"data_root": data_root, "limit": 8, "show_progress": False, "device": "cpu"}
        names = [str(tuned), str(tmp_path / "pruned")]
        ours = run_all(names, "mme", out=tmp_path / "runs", **options)
        theirs = run_all(names, "mme", out=tmp_path / "runs", backend="vllm", dtype="bfloat16", **options)
        # the folder's weights are rounded to bfloat16, so that few answers of tiny random models may differ
        for a, b, llm in zip(theirs, ours, mock.made, strict=True):
            assert Path(llm.folder).parent == tmp_path / "cache"
            assert llm._model.config.text_config.num_hidden_layers == a.record.checkpoint.depth
            same = [x.responses == y.responses for x, y in zip(a.samples["mme"], b.samples["mme"], strict=True)]
            assert sum(same) >= 0.5 * len(same)
        assert theirs[0].record.checkpoint.depth == 4 and theirs[1].record.checkpoint.depth == 3
        assert all(llm.ended for llm in mock.made)

    def test_vllm_that_does_not_start_is_told_once_for_each_task(
        self, mock: Any, tiny_llava: Path, data_root: Path, letters: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(mock, "refuses", "no room\nfor keys")
        monkeypatch.setattr("vllm.distributed.cleanup_dist_env_and_memory", ended := Mock())  # what it left is freed
        run = measure(
            tiny_llava, tmp_path, "mme,pocket_letters", backend="vllm", dtype="bfloat16", data_root=data_root,
            include_path=letters, limit=4,
        )  # fmt: skip
        told = f"vLLM does not start on {tiny_llava}: no room for keys"
        assert [result.error for result in run.record.results] == [told, told]
        assert len(mock.made) == 1 and ended.called

    def test_several_processes_are_refused(self, tiny_llava: Path, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match="answers with one process"):
            run_all(tiny_llava, "mme", options=RunConfig(backend="vllm", device="cpu"), ranks=Ranks(1, 2))


class TestRefusals:
    """Told before weights are loaded."""

    def told(self, *names: Path, tasks: str = "mme", backend: str = "vllm", **options: Any) -> list[str]:
        with pytest.raises(VrbenchError) as error:
            plan([str(name) for name in names], tasks, RunConfig(backend=backend, **options))
        return error_messages(error.value)

    def test_all_that_is_missing_is_told_at_once(
        self, tiny_llava: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vllm_checks, "package_version", lambda package: "")
        errors = self.told(tiny_llava, data_root=data_root, device="cpu", out=tmp_path)
        assert [error.partition("; ")[0] for error in errors] == [
            "backend is vllm, which is not installed",
            "backend is vllm and device is cpu",
            "backend is vllm and dtype is float32, in which only vrbench's own engine is exact",
        ]
        padded = RunConfig(backend="vllm", image_settings="pad", device="cuda:1", dtype="bfloat16", deterministic=True)
        _, gpu, fixed, pad = vllm_checks.option_errors(padded, [])
        assert "CUDA_VISIBLE_DEVICES" in gpu and "'pad', which it does not have" in pad
        assert "--deterministic is for vrbench's own" in fixed
        (unknown,) = self.told(tiny_llava, data_root=data_root, device="cpu", backend="vlm")
        assert unknown == "backend 'vlm' is unknown; there are vrbench, vllm"

    def test_families_and_generation_configs_that_vllm_does_not_serve(
        self, mock: Any, whole: Path, data_root: Path, tmp_path: Path
    ) -> None:
        other = tiny_families.save("paligemma", tmp_path / "other")
        tiny.edit_json(whole / "generation_config.json", repetition_penalty=1.2, min_length=0, suppress_tokens=[])
        family, settings = self.told(
            other, whole, data_root=data_root, device="cpu", dtype="bfloat16", out=tmp_path / "runs"
        )
        assert family.startswith("other is of family 'paligemma'; --backend vllm is for llava, ")
        assert settings.startswith("the generation config of whole sets repetition_penalty, which vLLM does otherwise")

    def test_options_of_several_tokens(self, mock: Any, tiny_llava: Path, data_root: Path, tmp_path: Path) -> None:
        known: dict[str, Any] = {"device": "cpu", "dtype": "bfloat16", "out": tmp_path}
        errors = self.told(tiny_llava, tasks="piqa,mme,arc_easy", data_root=data_root, **known)
        assert [error.partition(": ")[0] for error in errors] == [
            "task 'piqa' with llava",
            "task 'arc_easy' with llava",
        ]
        assert "log-likelihoods of several tokens" in errors[0]

    def test_an_older_version(self, mock: Any, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_checks, "package_version", lambda package: "0.9.2")
        config = RunConfig(backend="vllm", device="cpu", dtype="bfloat16")
        (error,) = vllm_checks.option_errors(config, [])
        assert error == "backend is vllm, of which version 0.9.2 is installed; at least 0.21 is needed"


@pytest.fixture
def served(mock: Any, tiny_llava: Path) -> Iterator[Any]:
    with served_vlm(resolve_checkpoint(str(tiny_llava)), "cpu", "bfloat16") as vlm:
        yield vlm


def answered(vlm: Any, *asked: Any) -> dict[str, Any]:
    backend = VllmBackend(vlm, vlm.vllm, {str(n): request for n, request in enumerate(asked)})
    return {k: v for found in (backend.unanswered, *backend.answers(BUDGET)) for k, v in found.items()}


class TestPrompts:
    def test_answers_are_our_tokens_with_one_placeholder_for_each_image(self, served: Any, mock: Any) -> None:
        shown = request_image(noise("a").convert("L"), lambda: noise("a").convert("L"))
        prompt = served.prompt("Is it red?", 1)
        answered(served, GenerationRequest(prompt, (shown,), 5, ("\n\n", "")))
        (given,), (parameters,) = mock.made[0].prompts, mock.made[0].parameters
        assert given["prompt_token_ids"] == served.tokenizer(prompt)["input_ids"]
        assert [image.mode for image in given["multi_modal_data"]["image"]] == ["RGB"]
        assert given["multi_modal_uuids"] == {"image": [shown.digest]}
        ends = sorted(served.stop_token_ids)
        assert (parameters.stop, parameters.stop_token_ids, parameters.max_tokens) == (["\n\n"], ends, 5)
        assert parameters.ignore_eos and parameters.skip_special_tokens
        answered(served, GenerationRequest("Why?", (), 5, (), tokens=(1, 2, 3)))
        assert mock.made[0].prompts[1] == {"prompt_token_ids": [1, 2, 3]}
        assert not mock.made[0].parameters[1].detokenize

    def test_an_answer_is_cut_by_our_rule(self, served: Any) -> None:
        whole = GenerationRequest("Why?", (), 12, (), tokens=(60, 61, 62))
        (text,) = answered(served, whole).values()
        cut = GenerationRequest("Why?", (), 12, (text[3], text[6]), tokens=(60, 61, 62))
        assert answered(served, cut)["0"] == min(text.split(text[3])[0], text.split(text[6])[0], key=len)

    def test_options_of_a_context_are_one_prompt(self, served: Any, mock: Any, tiny_llava: Path) -> None:
        asked = [LogLikelihoodRequest((60, 61, last), (option,)) for last in (62, 63) for option in range(150)]
        found = answered(served, *asked)
        assert [len(p.logprob_token_ids) for p in mock.made[0].parameters] == [128, 22, 128, 22]
        own = load_vlm(resolve_checkpoint(str(tiny_llava)))
        from vrbench.evaluation.backends import backends_of
        from vrbench.evaluation.vision_features import VisionFeatureCache

        (backend,) = backends_of(own, {str(n): r for n, r in enumerate(asked)}, VisionFeatureCache())
        expected = {k: v for part in backend.answers(MemoryBudget.of(own)) for k, v in part.items()}
        assert found.keys() == expected.keys() and len(found) == 300
        for key, (logprob, is_greedy) in found.items():
            assert expected[key] == (pytest.approx(logprob, abs=1e-3), is_greedy)
        assert len({key for key, (_, is_greedy) in found.items() if is_greedy}) <= 2

    def test_what_it_cannot_answer(self, served: Any) -> None:
        with pytest.raises(VrbenchError, match="log-likelihoods of several tokens"):
            answered(served, LogLikelihoodRequest((60,), (61, 62)))
        shown = request_image(noise("a"), lambda: noise("a"))
        with pytest.raises(VrbenchError, match="0 image placeholders for 1 images"):
            answered(served, GenerationRequest("none", (shown,), 5, ()))
        long = served.prompt("x" * 2040, 1)
        assert "the model's context is 2,048" in answered(served, GenerationRequest(long, (shown,), 5, ()))["0"].reason

    def test_calls_are_parts_of_the_prompts(self, served: Any, mock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vrbench.evaluation.vllm_backend.PROMPTS_PER_CALL", 2)
        asked = {str(n): LogLikelihoodRequest((60, n), (1,)) for n in range(5)}
        assert [len(part) for part in VllmBackend(served, served.vllm, asked).answers(BUDGET)] == [2, 2, 1]
        monkeypatch.setattr("vrbench.evaluation.vllm_backend.IMAGES_PER_CALL", 3)
        shown = request_image(noise("a"), lambda: noise("a"))
        prompts = {str(n): GenerationRequest(served.prompt(f"{n}?", 1), (shown,), 2, ()) for n in range(5)}
        assert [len(part) for part in VllmBackend(served, served.vllm, prompts).answers(BUDGET)] == [3, 2]


def test_the_speed_benchmark_asks_for_its_work(served: Any) -> None:
    class Counting:
        vlm = served

        def lines(self, work: str, asked: list[Any], amount: int, unit: str) -> Any:
            yield work, len(asked), amount, unit

    found = list(speed_vllm.lines_of(Counting(), ["text", "mmlu", "mme"], speed.QUICK))  # type: ignore[arg-type]
    assert found == [("text", 8, 96, "tokens"), ("mmlu", 48, 12, "items"), ("mme", 12, 12, "items")]


class TestWithoutWeights:
    def test_prompts_tokens_and_lengths_are_those_of_the_loaded_model(self, tiny_llava: Path, tmp_path: Path) -> None:
        removed(tiny_llava, tmp_path / "pruned")
        for name in (tiny_llava, tmp_path / "pruned"):
            checkpoint = resolve_checkpoint(str(name))
            bare, whole = load_without_weights(checkpoint), load_vlm(checkpoint)
            assert all(parameter.is_meta for parameter in bare.model.parameters())
            for attribute in ("depth", "image_tokens", "context_length", "full_context", "stop_token_ids", "device",
                              "dtype", "code", "image_settings"):  # fmt: skip
                assert getattr(bare, attribute) == getattr(whole, attribute)
            assert answer_conditions(bare) == answer_conditions(whole)
            assert bare.encode(bare.prompt("Why?", 1), [0]) == whole.encode(whole.prompt("Why?", 1), [0])  # type: ignore

    @pytest.mark.parametrize(("family", "is_pil"), [("llava_next", True), ("llava_onevision", False),
                                                    ("qwen2_5_vl", False), ("qwen3_vl", False)])  # fmt: skip
    def test_processors_with_videos_are_made_without_a_backend(self, family: str, is_pil: bool, tmp_path: Path) -> None:
        vlm = load_without_weights(resolve_checkpoint(str(tiny_families.save(family, tmp_path / family))))
        given = engine_arguments(vlm, "bfloat16", 0.5)["mm_processor_kwargs"]
        assert given == {**({"backend": "pil"} if is_pil else {}), **vlm.prompt_format.image_settings}

    @pytest.mark.parametrize("family", [name for name, of in FAMILIES.items() if of.vllm and name != "llava"])
    def test_placeholders_are_the_processors_image_tokens(self, family: str, tmp_path: Path) -> None:
        vlm: Any = load_without_weights(resolve_checkpoint(str(tiny_families.save(family, tmp_path / family))))
        images = [noise("a", 64, 48), noise("b", 40, 64)]
        prompt = vlm.prompt("<image>Is it? <image>", 2)
        whole = vlm.encode_with_images([prompt], [images])["input_ids"]
        vlm.device = "cpu"
        ids = vlm.encode_with_placeholders(prompt, 2)
        assert (
            ids.count(vlm.image_token) == 2 and vlm.length(prompt, [image.size for image in images]) == whole.shape[1]
        )
        from vrbench.models.processors import encode_with_images

        expanded = encode_with_images(vlm.processor, vlm.prompt_format, [prompt], [images], family)["input_ids"][0]
        assert [i for i in expanded.tolist() if i != vlm.image_token] == [i for i in ids if i != vlm.image_token]


@pytest.mark.parametrize("is_known", [True, False])
def test_keys_of_two_backends_are_never_the_same(
    served: Any, tiny_llava: Path, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_known:
        monkeypatch.setattr(requests, "package_versions", lambda packages: {})
    own = load_without_weights(resolve_checkpoint(str(tiny_llava)), dtype="bfloat16")
    ours, theirs = answer_conditions(own), answer_conditions(served)
    assert ours.keys() == theirs.keys() and not set(ours.values()) & set(theirs.values())
