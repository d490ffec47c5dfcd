"""Compare each model family with lmms-eval's own model class, and list differences with their reasons.

    python benchmarks/families.py

Each family is a tiny model with random weights, run by vrbench and by the class's own code with the same processor:

- prompt and pixels: the model's inputs for one and for two images;
- stop sequences: fixed answers that contain stop sequences, with several generation settings;
- answers: generated answers that contain a stop sequence.

Writes benchmarks/results/families.md; exits with 1 if there is a difference for which the family's entry in
vrbench/checkpoints/families.py has no reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from vrbench.models.resolve import resolve_checkpoint

if __package__ in (None, ""):  # run as a file: the folder's own modules, by their name
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report_header
from tests import lmms_classes, tiny, tiny_families
from tests.evaluation.made import noise
from tests.lmms_classes import Saying
from vrbench.checkpoints.families import FAMILIES
from vrbench.models.load import load_vlm

REPORT = Path(__file__).parent / "results" / "families.md"
QUESTIONS = ["Is it red?", "What is it?\nAnswer in a word.", "Which of <image 1> and <image 2> is older?"]
SAID = ["Yes.\n\nIt is red.", "\n\nYes", " yes ", "A ASSISTANT: B\n\nC", "<think>x\n\ny</think>\n\\boxed{B}"]
UNTIL: list[dict[str, Any]] = [{}, {"until": ["\n\n"]}, {"until": ["\n\n", "ASSISTANT:"], "max_new_tokens": 9}]
DTYPES = {"gemma3": "bfloat16"}
"""The class gives pixels in bfloat16, whatever the model's type."""

NO_CLASS = {"paligemma": "no class of lmms-eval can ask it: it has no chat template"}
PENALISED = {"mistral3": "repetition_penalty"}
"""Families whose class sets something on `generate` that is not followed, as the entry says."""


@dataclass(frozen=True)
class Line:
    """What was compared of one family: how many differ of how many."""

    family: str
    prompts: tuple[int, int]
    pixels: tuple[int, int]
    stops: tuple[int, int]
    answers: tuple[int, int]
    followed: tuple[int, int]

    @property
    def equal(self) -> bool:
        """Whether nothing differs but what the entry gives a reason for."""
        return not any(different for different, _ in (self.prompts, self.pixels, self.stops, self.followed))


class Without:
    """A model whose `generate` is not given some settings."""

    def __init__(self, model: Any, dropped: str = "") -> None:
        self._model, self._dropped = model, dropped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, **given: Any) -> Any:
        """As the model's own."""
        given.pop(self._dropped, None)
        return self._model.generate(**given)


class Asked:
    """One family's tiny model, asked here and by the class."""

    def __init__(self, family: str, folder: Path) -> None:
        made_folder = tiny.save_llava(folder) if family == "llava" else tiny_families.save(family, folder)
        self.vlm: Any = load_vlm(resolve_checkpoint(str(made_folder)), "cpu", DTYPES.get(family, "float32"))
        self.processor = lmms_classes.of_llava(self.vlm) if family == "llava" else self.vlm.processor
        self.folder, self.asked = folder, 0

    def theirs(self, model: Any, text: str, shown: list[Any], settings: Mapping[str, Any]) -> str:
        """The class's answer."""
        return lmms_classes.answered(self.vlm, self.processor, model, text, shown, settings)

    def ours(self, text: str, shown: list[Any], settings: Mapping[str, Any]) -> str:
        """vrbench's answer to the same request of lmms-eval, from no store."""
        from lmms_eval.api.instance import Instance

        from benchmarks.harness_models import LmmsEvalModel
        from vrbench.evaluation.answer_store import AnswerStore
        from vrbench.evaluation.engine import InferenceEngine

        self.asked += 1
        with AnswerStore(self.folder / f"{self.asked}.sqlite", "c") as store:
            model = LmmsEvalModel(InferenceEngine(self.vlm, store, show_progress=False))
            model.task_dict = {"t": {"s": [{}]}}
            arguments = (text, dict(settings), lambda _: list(shown), 0, "t", "s")
            where = {"task": "t", "doc_id": 0, "repeats": 1}
            return model.generate_until([Instance("generate_until", arguments, 0, where)])[0]

    def given(self, text: str, shown: list[Any]) -> tuple[list[int], Any]:
        """Token ids and pixels that vrbench gives to the model."""
        prompt = self.vlm.prompt(text, len(shown))
        if not FAMILIES[self.vlm.family].prefix_sharing:
            inputs = self.vlm.encode_with_images([prompt], [shown])
            return inputs["input_ids"][0].tolist(), inputs["pixel_values"]
        ids = self.vlm.encode(prompt, list(range(len(shown))))
        pixels = self.vlm.image_processor(images=shown, return_tensors="pt")["pixel_values"]
        return [self.vlm.image_token if i < 0 else i for i in ids], pixels


def compare(family: str, folder: Path) -> Line:
    """Ask one family both ways."""
    import torch

    asked = Asked(family, folder)
    texts = [
        (text, [noise(f"{text}{i}", 40 + 9 * n, 24) for i in range(1 + n % 2)]) for n, text in enumerate(QUESTIONS)
    ]
    prompts = pixels = stops = answers = followed = 0
    for text, shown in texts:
        model = Saying()
        asked.theirs(model, text, shown, {"max_new_tokens": 1})
        ids, values = asked.given(text, shown)
        theirs = model.given["pixel_values"]
        prompts += ids != model.given["input_ids"][model.given["attention_mask"] == 1].tolist()
        pixels += not torch.equal(values.to(theirs.dtype), theirs)
    for number, said in enumerate(SAID if not FAMILIES[family].prefix_sharing else ()):
        for settings in (UNTIL[number % len(UNTIL)], UNTIL[1]):
            model = Saying([*asked.vlm.tokenizer.encode(said, add_special_tokens=False), asked.vlm.eos_token_id])
            expected = asked.theirs(model, *texts[0], settings)
            with (
                mock.patch.object(asked.vlm.model, "generate", model.generate),
                mock.patch.object(type(asked.vlm), "generates_in_slots", False),  # which does not call it
            ):
                stops += asked.ours(*texts[0], settings) != expected
    for text, shown in texts:
        settings = {"max_new_tokens": 24, "do_sample": False}
        plain = asked.theirs(Without(asked.vlm.model, PENALISED.get(family, "")), text, shown, settings)
        settings |= {"until": ["\n\n", plain[3:5] or "x"]}
        said = asked.ours(text, shown, settings)
        answers += said != asked.theirs(Without(asked.vlm.model), text, shown, settings)
        followed += said != asked.theirs(Without(asked.vlm.model, PENALISED.get(family, "")), text, shown, settings)
    n, laid_down = len(texts), 0 if FAMILIES[family].prefix_sharing else 2 * len(SAID)
    return Line(family, (prompts, n), (pixels, n), (stops, laid_down), (answers, n), (followed, n))


def _cell(found: tuple[int, int]) -> str:
    different, of = found
    return f"{different} of {of} differ" if different else f"0 of {of}" if of else "with the answers"


def report(lines: list[Line]) -> str:
    """The page."""
    rows = [
        "| family | lmms-eval's class | prompts | pixels | stop texts, length | answers | what is meant to differ |"
    ]
    rows.append("|---|---|---|---|---|---|---|")
    for family, entry in FAMILIES.items():
        reasons = "; ".join(entry.prompt_format.differences) or "nothing"
        line = next((line for line in lines if line.family == family), None)
        cells = [NO_CLASS.get(family, "")] + ["-"] * 3
        if line:
            answers = _cell(line.answers)
            if line.answers != line.followed:
                answers += f" ({_cell(line.followed)} without its {PENALISED[family].replace('_', ' ')})"
            cells = [_cell(line.prompts), _cell(line.pixels), _cell(line.stops), answers]
        rows.append(f"| {family} | `{entry.prompt_format.lmms_class}` | {' | '.join(cells)} | {reasons} |")
    return "\n".join(
        [
            "# Families against lmms-eval's own model classes",
            "",
            f"`{report_header.command()}`, on a CPU, in float32 (Gemma 3 in bfloat16, as its class gives pixels).",
            report_header.versions(),
            "",
            "Tiny models with random weights, asked by vrbench and by the class's own code over the same processor:",
            "how many differ. qwen_vl_utils and JPEG have stand-ins. What is meant to differ is said in each family's",
            "entry in vrbench/checkpoints/families.py; docs/families.md says how each is asked.",
            "",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Compare all families, write the page and print it."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lines = []
    for family in FAMILIES:
        if family not in NO_CLASS:
            with tempfile.TemporaryDirectory() as folder:
                lines.append(compare(family, Path(folder) / family))
            print(lines[-1], file=sys.stderr, flush=True)
    REPORT.write_text(report(lines), encoding="utf-8")
    print(REPORT.read_text(encoding="utf-8"))
    sys.exit(any(not line.equal for line in lines))


if __name__ == "__main__":
    main()
