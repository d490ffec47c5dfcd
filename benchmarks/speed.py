"""Measure the speed of vrbench beside lm-eval's model class and transformers' `generate`, on the same work in one run.

    python -m benchmarks.speed --device cuda [--measure mmlu,mme] [--out FILE]
    python -m benchmarks.speed --device cpu --quick --data-root DATA

Models have random weights at true shape (`random/...`), so that no answer ends early and every way does the same work:
each answer has exactly its maximum number of tokens. Times run from weights loaded to responses stored, all work of the
processor included. "first" is the first run of the process, with everything that is prepared once; "again" is the
second, with an empty answer store. Peers run with their own settings after a run that is not counted. On a GPU the
peak of allocated memory stands beside the plan: weights, keys and values of answers and shared prefixes, activations.

| work | what it is | peers |
|---|---|---|
| mmlu | 570 questions of four options behind 57 headers of 600 tokens, 90 tokens of their own | lm-eval's HFLM |
| mmlu-all | 14,022 such questions, 246 behind each header | HFLM's rate on mmlu |
| prefill | 256 prompts of 1,024 tokens, one token's log-likelihood each | the decoder's forward pass alone, batch 32 |
| options | 500 questions of 40 tokens with 4 options of 12 tokens | HFLM |
| mme | 400 questions of 2 on an image of 640 x 480, 16 new tokens | `generate`, batch 1 and 32 |
| textvqa | 200 images with one question, 64 new tokens | `generate`, batch 32 |
| text | 256 prompts of 292 tokens, 128 new tokens | `generate`, batch 256 |
| bbh | 1,000 prompts of 292 tokens, 20 to 400 new tokens | `generate`, sorted, batch 100, on a tenth of them |
| qwen-mme, qwen3-mme | mme on random/qwen2.5-vl-7b and random/qwen3-vl-8b | `generate`, batch 1 and 32 |
| qwen-mmlu | mmlu on random/qwen2.5-vl-7b | HFLM |

With --vllm also vLLM by itself and as vrbench's backend, on text, mmlu and mme, in processes of their own
(benchmarks/speed_vllm.py), after all else.

With --quick it is little work on pocket/region, or on small models of Qwen's families, and tasks of the pocket demo (or
`--tasks`), from their rows to their scores, beside lm-eval's own evaluator and `HFLM`, or lmms-eval's `llava_hf`, over
the same rows; "demo" is their sum. On a CPU seconds are CPU time of all threads, which other processes change little.

Writes benchmarks/results/speed.md, or speed-cpu.md with --quick.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import report_header
from vrbench.checkpoints.random_tokenizer import WORDS
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, request_image

RESULTS = Path(__file__).parent / "results"
WAYS = ("vrbench, first", "vrbench, again")


@dataclass(frozen=True)
class Sizes:
    """How much work there is."""

    subjects: int = 57
    each: int = 10
    header: int = 600
    own: int = 90
    all_each: int = 246
    read: int = 256
    read_tokens: int = 1024
    questions: int = 500
    images: int = 200
    prompts: int = 256
    prompt: int = 292
    answer: int = 128
    mixed: int = 1000
    longest: int = 400


QUICK = Sizes(
    subjects=3, each=4, header=120, own=30, all_each=6, read=4, read_tokens=128, questions=12, images=6,
    prompts=8, prompt=60, answer=12, mixed=12, longest=24,
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One way of doing some work.

    Attributes:
        work: name of the work.
        way: who did it.
        amount: items, or output tokens.
        unit: of the amount.
        seconds: wall time.
        note: batch size, what was left out.
    """

    work: str
    way: str
    amount: int
    unit: str
    seconds: float
    note: str = ""


class Measured:
    """A model with its ways of answering."""

    def __init__(self, name: str, device: str, dtype: str, endless: bool = True) -> None:
        from vrbench.models.load import load_vlm
        from vrbench.models.resolve import resolve_checkpoint

        self.vlm: Any = load_vlm(resolve_checkpoint(name), device, dtype)
        if endless:  # every answer has its maximum length
            vars(self.vlm)["stop_token_ids"] = frozenset()
            self.vlm.model.generation_config.eos_token_id = None  # with `generate` too
        self.model, self.tokenizer, self.device = self.vlm.model, self.vlm.tokenizer, self.vlm.device
        self.answered: list[Any] = []
        self.weights = torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

    def ours(
        self, work: str, requests: Sequence[Request], amount: int, unit: str, ways: Sequence[str] = WAYS
    ) -> Iterator[Line]:
        """Time the engine twice, each time with an empty store."""
        from vrbench.evaluation.answer_store import AnswerStore
        from vrbench.evaluation.engine import InferenceEngine
        from vrbench.evaluation.vision_features import VisionFeatureCache

        for way in ways:
            self.answered.clear()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "a.sqlite", "speed") as store:
                features = VisionFeatureCache(shared=False)
                engine = InferenceEngine(self.vlm, store, features=features, show_progress=False)
                seconds = self.timed(lambda engine=engine: self.answered.extend(engine.answer(requests)))  # type: ignore[misc]
            yield Line(work, way, amount, unit, seconds, self.memory(engine.planned_bytes))

    def memory(self, planned: int) -> str:
        """The peak of allocated memory beside weights and what was planned besides them; empty on a CPU."""
        if self.device.type != "cuda":
            return ""
        peak, planned = torch.cuda.max_memory_allocated(), self.weights + planned
        return f"peak {peak / 2**30:.1f} GiB, {peak / planned:.2f} of the {planned / 2**30:.1f} planned"

    def timed(self, action: Callable[[], Any]) -> float:
        """Wall time of an action and of all that it started on the GPU; on a CPU the CPU time of all threads."""
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        self.wait()
        start = clock()
        action()
        self.wait()
        return clock() - start

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def as_transformers_has_it(self) -> Iterator[None]:
        """Undo what vrbench changes in a loaded model, for the peers."""
        decoder = self.vlm.language_model
        fast = {module: vars(module).pop("forward") for module in self.model.modules() if "forward" in vars(module)}
        implementation = decoder.config._attn_implementation
        decoder.set_attn_implementation("sdpa")
        try:
            yield
        finally:
            decoder.set_attn_implementation(implementation)
            for module, forward in fast.items():
                module.forward = forward

    @torch.inference_mode()
    def generate(self, prompts: Sequence[GenerationRequest], batch: int) -> list[str]:
        """Return the answers of transformers' `generate`, sorted by the longest answer and padded on the left."""
        order = sorted(range(len(prompts)), key=lambda i: prompts[i].max_new_tokens)
        found: dict[int, str] = {}
        for start in range(0, len(order), batch):
            part = [prompts[i] for i in order[start : start + batch]]
            inputs = self.inputs(part)
            new = part[-1].max_new_tokens
            made = self.model.generate(**inputs, do_sample=False, max_new_tokens=new,
                                       pad_token_id=self.vlm.eos_token_id)  # fmt: skip
            rows = made[:, inputs["input_ids"].shape[1] :]
            cut = [row[: request.max_new_tokens] for row, request in zip(rows.tolist(), part, strict=True)]
            texts = self.tokenizer.batch_decode(cut, skip_special_tokens=True)
            found |= dict(zip(order[start : start + batch], texts, strict=True))
        return [found[i] for i in range(len(prompts))]

    def inputs(self, prompts: Sequence[GenerationRequest]) -> dict[str, torch.Tensor]:
        """Return the inputs of transformers' model, as its own processor makes them."""
        from transformers import LlavaProcessor

        texts: list[str] = [request.prompt for request in prompts]
        images = [[image.load() for image in request.images] for request in prompts]
        settings: dict[str, Any] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        if not images[0]:
            found = self.tokenizer(texts, return_token_type_ids=False, **settings)
        elif self.vlm.family == "llava":
            processor = LlavaProcessor(
                self.vlm.image_processor, self.tokenizer, patch_size=1 << 30, vision_feature_select_strategy="full",
                num_additional_image_tokens=self.vlm.image_tokens,
            )  # fmt: skip
            found = processor(text=texts, images=[image for of_prompt in images for image in of_prompt], **settings)
        else:
            return dict(self.vlm.encode_with_images(texts, images))
        moved = {name: value.to(self.device) for name, value in found.items()}
        return {n: value.to(self.vlm.dtype) if n == "pixel_values" else value for n, value in moved.items()}

    @torch.inference_mode()
    def read(self, contexts: Sequence[tuple[int, ...]], batch: int) -> None:
        """Pass contexts of one length through the decoder, and the last position through its head."""
        for part in torch.tensor(contexts, device=self.device).split(batch):
            states = self.vlm.language_model(input_ids=part, use_cache=False).last_hidden_state
            self.vlm.head(states[:, -1]).float().log_softmax(-1)

    def hflm(self, requests: Sequence[LogLikelihoodRequest], batch: int) -> list[tuple[float, bool]]:
        """Return the answers of lm-eval's `HFLM`, from token ids as it makes them of texts."""
        from lm_eval.models.huggingface import HFLM

        model = HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch)
        asked = [(("", ""), list(r.context), list(r.continuation)) for r in requests]
        found: list[tuple[float, bool]] = model._loglikelihood_tokens(asked, disable_tqdm=True)
        return found


def demo(measured: Measured, names: str, data_root: Path | None, items: int) -> Iterator[Line]:
    """Tasks from rows to scores, and the sums over all of them."""
    lines: list[Line] = []
    for line in real_tasks(measured, names, data_root, items):
        lines.append(line)
        yield line
    peers = [line.way for line in lines if line.way not in WAYS]
    for name, ways in {**{way: [way] for way in WAYS}, " and ".join(dict.fromkeys(peers)): peers}.items():
        of_ways = [line for line in lines if line.way in ways]
        amount, seconds = sum(line.amount for line in of_ways), sum(line.seconds for line in of_ways)
        yield Line("demo", name, amount, "items", seconds)


def real_tasks(measured: Measured, names: str, data_root: Path | None, items: int) -> Iterator[Line]:
    """Tasks from rows to scores, with lm-eval's evaluator and `HFLM`, or lmms-eval's `llava_hf`, beside."""
    from vrbench.data import loading
    from vrbench.data.locate import locate
    from vrbench.evaluation.answer_store import AnswerStore
    from vrbench.evaluation.built_task import select_items
    from vrbench.evaluation.engine import InferenceEngine
    from vrbench.evaluation.evaluate import evaluate_task
    from vrbench.tasks import registry

    for spec in registry.select(names, registry.load()):
        parts = select_items(spec, loading.load(spec, locate(spec, data_root)), items, seed=0)
        count = sum(len(part.positions) for part in parts)
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "a.sqlite", "speed") as store:
                engine = InferenceEngine(measured.vlm, store, show_progress=False)
                seconds = measured.timed(partial(evaluate_task, spec, parts, engine))
            yield Line(spec.id, way, count, "items", seconds)
        if spec.harness == "lm-eval":
            seconds = _lm_eval_seconds(measured, spec, parts)
            yield Line(spec.id, "lm-eval HFLM", count, "items", seconds, "batch 16, lm-eval's evaluator")
        else:
            seconds = _lmms_eval_seconds(measured, spec, parts)
            yield Line(spec.id, "lmms-eval llava_hf", count, "items", seconds, "batch 1, as it requires")


def _lm_eval_seconds(measured: Measured, spec: Any, parts: Sequence[Any]) -> float:
    import contextlib

    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from vrbench.evaluation.built_task import harness_config
    from vrbench.evaluation.lm_eval_adapter import LmEvalTask

    with measured.as_transformers_has_it(), contextlib.redirect_stderr(io.StringIO()):
        model = HFLM(pretrained=measured.model, tokenizer=measured.tokenizer, batch_size=16)
        tasks = {p.config: LmEvalTask(harness_config(spec, p.config), p.rows, spec.fewshot) for p in parts}
        return measured.timed(partial(evaluate, model, tasks, bootstrap_iters=0))


def _lmms_eval_seconds(measured: Measured, spec: Any, parts: Sequence[Any]) -> float:
    """Without scores: lmms-eval's evaluator has no way to take a model's task over rows in memory."""
    from lmms_eval.models.simple.llava_hf import LlavaHf

    from benchmarks.llava_hf import exported, theirs
    from vrbench.evaluation.built_task import harness_config
    from vrbench.evaluation.lmms_eval_adapter import LmmsEvalTask

    device, dtype = str(measured.device), str(measured.vlm.dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as folder:
        plain = exported(measured.vlm, Path(folder))
        model = LlavaHf(pretrained=str(plain), device=device, dtype=dtype, device_map=device)
    tasks = [LmmsEvalTask(harness_config(spec, part.config), part.rows, spec.fewshot) for part in parts]

    def answer() -> None:
        for task in tasks:
            task.build_all_requests()
            theirs(model, task)

    return measured.timed(answer)


def options(
    rng: random.Random, groups: int, each: int, header: int, own: int, option: int
) -> list[LogLikelihoodRequest]:
    """Questions behind shared headers, with four options each."""

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(300, 900) for _ in range(count))

    found = []
    for _ in range(groups):
        shared = tokens(header)
        for _ in range(each):
            context = shared + tokens(rng.randint(own // 2, own + own // 2))
            found += [LogLikelihoodRequest(context, tokens(option)) for _ in range(4)]
    return found


def texts(
    rng: random.Random, tokenizer: Any, count: int, length: int, answers: Sequence[int]
) -> list[GenerationRequest]:
    """Prompts of so many tokens, of words if none is a token, without images."""
    special = len(tokenizer("").input_ids)
    words = [word for word in WORDS if len(tokenizer(f"of {word}").input_ids) == special + 2] or WORDS
    prompts = [" ".join(rng.choice(words) for _ in range(length - special)) for _ in range(count)]
    return [GenerationRequest(text, (), new, ()) for text, new in zip(prompts, answers, strict=True)]


def image_prompts(vlm: Any, count: int, each: int, new: int) -> list[GenerationRequest]:
    """Prompts about JPEG images of 640 x 480, as a file of a data set holds them."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    questions = ("Is there a dog in this image? Please answer yes or no.", "Is the large object left of the small one?")
    found = []
    for _ in range(count):
        stream = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((640, 480)).save(stream, "JPEG")

        def load(content: bytes = stream.getvalue()) -> Any:
            return Image.open(io.BytesIO(content)).convert("RGB")

        shown = request_image(load(), load)
        found += [GenerationRequest(vlm.prompt(text, 1), (shown,), new, ()) for text in questions[:each]]
    return found


def text_work(measured: Measured, work: Sequence[str], sizes: Sizes) -> Iterator[Line]:
    """Work without images."""
    rng = random.Random(0)
    if "mmlu" in work:
        yield from _mmlu(measured, "mmlu", rng, sizes)
    if "mmlu-all" in work:
        asked = options(rng, sizes.subjects, sizes.all_each, sizes.header, sizes.own, 1)
        yield from measured.ours("mmlu-all", asked, len(asked) // 4, "items", WAYS[1:])
    if "prefill" in work:
        yield from _prefill(measured, rng, sizes)
    if "options" in work:
        asked = options(rng, sizes.questions, 1, 0, 40, 12)
        yield from measured.ours("options", asked, len(asked) // 4, "items")
        yield from _hflm(measured, "options", asked, 64)
    if "text" in work:
        prompts = texts(rng, measured.tokenizer, sizes.prompts, sizes.prompt, [sizes.answer] * sizes.prompts)
        tokens = sizes.prompts * sizes.answer
        yield from measured.ours("text", prompts, tokens, "tokens")
        yield from _generate(measured, "text", prompts, 256)
    if "bbh" in work:
        answers = [rng.randint(20, sizes.longest) if sizes.longest > 20 else 20 for _ in range(sizes.mixed)]
        prompts = texts(rng, measured.tokenizer, sizes.mixed, sizes.prompt, answers)
        yield from measured.ours("bbh", prompts, sum(answers), "tokens")
        yield from _generate(measured, "bbh", prompts[::10], 100, step=10)


def image_work(measured: Measured, work: Sequence[str], sizes: Sizes) -> Iterator[Line]:
    """Work with images."""
    if "mme" in work:
        yield from _mme(measured, "mme", sizes)
    if "textvqa" in work:
        prompts = image_prompts(measured.vlm, sizes.images, 1, 64)
        yield from measured.ours("textvqa", prompts, len(prompts), "items")
        yield from _generate(measured, "textvqa", prompts, 32, "items")


def qwen_work(measured: Measured, work: Sequence[str], sizes: Sizes) -> Iterator[Line]:
    """Work of Qwen2.5-VL."""
    if "qwen-mme" in work:
        yield from _mme(measured, "qwen-mme", sizes)
    if "qwen-mmlu" in work:
        yield from _mmlu(measured, "qwen-mmlu", random.Random(0), sizes)


def qwen3_work(measured: Measured, work: Sequence[str], sizes: Sizes) -> Iterator[Line]:
    """Work of Qwen3-VL."""
    if "qwen3-mme" in work:
        yield from _mme(measured, "qwen3-mme", sizes)


WORK: tuple[tuple[tuple[str, ...], Callable[[Measured, Sequence[str], Sizes], Iterator[Line]]], ...] = (
    (("mmlu", "mmlu-all", "prefill", "options", "text", "bbh"), text_work),
    (("mme", "textvqa"), image_work),
    (("qwen-mme", "qwen-mmlu"), qwen_work),
    (("qwen3-mme",), qwen3_work),
)
"""Names of work, and the function that does it, on one model."""

MODELS = ("random/bunny-llama-3-8b", "random/llava-1.5-7b", "random/qwen2.5-vl-7b", "random/qwen3-vl-8b")
DEMO = "pocket_mme,pocket_mmbench,pocket_seed,pocket_textvqa,pocket_facts,pocket_grammar"
QUICK_MODELS = ("pocket/region", "pocket/region", "random/tiny-qwen2.5-vl", "random/tiny-qwen3-vl")


def _mmlu(measured: Measured, work: str, rng: random.Random, sizes: Sizes) -> Iterator[Line]:
    asked = options(rng, sizes.subjects, sizes.each, sizes.header, sizes.own, 1)
    yield from measured.ours(work, asked, len(asked) // 4, "items")
    yield from _hflm(measured, work, asked, 64)


def _prefill(measured: Measured, rng: random.Random, sizes: Sizes) -> Iterator[Line]:
    contexts = [tuple(rng.randrange(300, 900) for _ in range(sizes.read_tokens)) for _ in range(sizes.read)]
    tokens = sizes.read * sizes.read_tokens
    yield from measured.ours(
        "prefill", [LogLikelihoodRequest(context, (300,)) for context in contexts], tokens, "tokens"
    )
    with measured.as_transformers_has_it():
        measured.read(contexts[:32], 32)
        seconds = measured.timed(partial(measured.read, contexts, 32))
    yield Line("prefill", "forward pass alone", tokens, "tokens", seconds, "batch 32, the last position's logits")


def _mme(measured: Measured, work: str, sizes: Sizes) -> Iterator[Line]:
    prompts = image_prompts(measured.vlm, sizes.images, 2, 16)
    yield from measured.ours(work, prompts, len(prompts), "items")
    yield from _generate(measured, work, prompts[: max(2, len(prompts) // 20)], 1, "items")
    yield from _generate(measured, work, prompts, 32, "items")


def _hflm(measured: Measured, work: str, asked: Sequence[LogLikelihoodRequest], batch: int) -> Iterator[Line]:
    with measured.as_transformers_has_it():
        measured.hflm(asked[: 4 * batch], batch)
        theirs: list[tuple[float, bool]] = []
        seconds = measured.timed(lambda: theirs.extend(measured.hflm(asked, batch)))
    ours = measured.answered
    same = sum(_best(ours[i : i + 4]) == _best(theirs[i : i + 4]) for i in range(0, len(asked), 4))
    far = max(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True))
    note = f"batch {batch}; {same} of {len(asked) // 4} choices equal, log-likelihoods to {far:.2g}"
    yield Line(work, "lm-eval HFLM", len(asked) // 4, "items", seconds, note)


def _best(options: Sequence[tuple[float, bool]]) -> int:
    return max(range(len(options)), key=lambda i: options[i][0])


def _generate(
    measured: Measured, work: str, prompts: Sequence[GenerationRequest], batch: int, unit: str = "tokens", step: int = 1
) -> Iterator[Line]:
    amount = len(prompts) if unit == "items" else sum(request.max_new_tokens for request in prompts)
    with measured.as_transformers_has_it():
        measured.generate(prompts[:1], 1)
        theirs: list[str] = []
        seconds = measured.timed(lambda: theirs.extend(measured.generate(prompts, batch)))
    ours = measured.answered[::step][: len(theirs)]
    first = sum(a[:4] == b[:4] for a, b in zip(ours, theirs, strict=True))
    note = f"batch {batch}, {len(prompts)} prompts; the first 4 characters equal in {first}"
    yield Line(work, "transformers generate", amount, unit, seconds, note)


def table(lines: Sequence[Line]) -> list[str]:
    """Markdown: a row for each line, with how many times as fast vrbench is."""
    rows = ["| work | way | amount | seconds | per second | vrbench is | |", "|---|---|--:|--:|--:|--:|---|"]
    speed = {(line.work, line.way): line.amount / line.seconds for line in lines}
    done = list(dict.fromkeys(line.work for line in lines))
    for line in sorted(lines, key=lambda line: done.index(line.work)):
        rate = line.amount / line.seconds
        ours = speed.get((line.work, "vrbench, again"), 0)
        ratio = f"{ours / rate:.2g} x" if ours and line.way not in WAYS else ""
        rows.append(
            f"| {line.work} | {line.way} | {line.amount:,} {line.unit} | {line.seconds:.2f} | {rate:,.1f} | {ratio} "
            f"| {line.note} |"
        )
    return rows


def vllm_lines(model: str, work: Sequence[str], dtype: str, device: str, quick: bool) -> Iterator[Line]:
    """The lines of vLLM for one model, whose process has the GPU's memory to itself."""
    command = [sys.executable, "-m", "benchmarks.speed_vllm", "--model", model, "--dtype", dtype, "--device", device]
    command += ["--measure", ",".join(work), *["--quick"] * quick]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for row in process.stdout:
        if row.startswith("{"):
            yield Line(**json.loads(row))
    if process.wait():
        print(f"{' '.join(command)} ended with {process.returncode}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="little work, with the pocket model's size")
    parser.add_argument("--measure", default=",".join([*(name for names, _ in WORK for name in names), "demo"]))
    parser.add_argument("--dtype", default="", help="bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--text-model", default=MODELS[0])
    parser.add_argument("--image-model", default=MODELS[1])
    parser.add_argument("--tasks", default=DEMO, help="with --quick: tasks from rows to scores; the pocket demo")
    parser.add_argument("--data-root", type=Path, help="of those tasks, where they are not generated")
    parser.add_argument("--items", type=int, default=32, help="items of each")
    parser.add_argument("--vllm", action="store_true", help="vLLM beside it")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    work, sizes = given.measure.split(","), QUICK if given.quick else Sizes()
    dtype = given.dtype or ("bfloat16" if given.device.startswith("cuda") else "float32")
    models = QUICK_MODELS if given.quick else (given.text_model, given.image_model, *MODELS[2:])
    out = given.out or RESULTS / ("speed-cpu.md" if given.quick else "speed.md")
    lines: list[Line] = []

    def record(lines_of: Iterator[Line]) -> None:
        for line in lines_of:
            lines.append(line)
            print(json.dumps(vars(line)), flush=True)
            _write(out, lines, models, dtype, given.device)

    for name, (of_kind, do) in zip(models, WORK, strict=True):
        if not set(of_kind) & set(work):
            continue
        record(do(Measured(name, given.device, dtype), work, sizes))
        if given.device.startswith("cuda"):
            gc.collect()
            torch.cuda.empty_cache()
    if given.quick and "demo" in work:
        measured = Measured(QUICK_MODELS[0], given.device, dtype, endless=False)
        record(demo(measured, given.tasks, given.data_root, given.items))
    for name, (of_kind, _) in zip(models, WORK, strict=True) if given.vllm else ():
        if theirs := sorted(set(of_kind) & set(work) & {"text", "mmlu", "mme"}):
            record(vllm_lines(name, theirs, dtype, given.device, given.quick))


def _write(out: Path, lines: Sequence[Line], models: Sequence[str], dtype: str, device: str) -> None:
    from vrbench.core.device import device_name

    done = {line.work for line in lines}
    kinds = [*zip(models, (of_kind for of_kind, _ in WORK), strict=True), (QUICK_MODELS[0], ("demo",))]
    on = "; ".join(
        f"{', '.join(name for name in of_kind if name in done)} on {model}"
        for model, of_kind in kinds
        if done & set(of_kind)
    )
    about = f"{device_name(torch.device(device))}, {dtype}. {on}."
    made = [f"`{report_header.command()}`", "", report_header.versions(), ""]
    written = ["# Speed", "", about, "", *table(lines), "", *made]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(written), encoding="utf-8")


if __name__ == "__main__":
    main()
