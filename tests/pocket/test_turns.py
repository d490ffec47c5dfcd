"""Training turns: right answers, asked in the words of the harnesses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.pocket import truth
from vrbench.pocket import visual
from vrbench.pocket.questions import QUESTIONS, YES_NO_PAIRS
from vrbench.pocket.turns import LETTERS, SHORT, TrainingTurn, caption, lettered, turns
from vrbench.pocket.world import scene


class Tolerant(yaml.SafeLoader):
    """Reads a harness's YAML without its functions."""


Tolerant.add_multi_constructor("!", lambda loader, suffix, node: None)


def post_prompt(file: str) -> dict[str, Any]:
    """What a task of lmms-eval hands to its `doc_to_text` for models without words of their own."""
    import lmms_eval

    text = (Path(lmms_eval.__file__).parent / "tasks" / file).read_text(encoding="utf-8")
    return yaml.load(text, Tolerant)["lmms_eval_specific_kwargs"]["default"]


class TestPrompts:
    """What training shows is, character for character, what the harness asks."""

    def test_seed(self) -> None:
        from lmms_eval.tasks.seedbench.utils import seed_doc_to_text

        for row in visual.pocket_seed("dev", 16):
            options = [row[f"choice_{letter.lower()}"] for letter in LETTERS]
            assert lettered(row["question"], options, "seed") == seed_doc_to_text(row)

    def test_mmbench(self) -> None:
        from lmms_eval.tasks.mmbench.en_utils import mmbench_doc_to_text

        settings = post_prompt("mmbench/_default_template_mmbench_en_yaml")
        for row in visual.pocket_mmbench("dev", 8):
            options = [row[letter] for letter in LETTERS]
            assert lettered(row["question"], options, "mmbench") == mmbench_doc_to_text(row, settings)

    def test_mme(self) -> None:
        from lmms_eval.tasks.mme.utils import mme_doc_to_text

        settings = post_prompt("mme/mme.yaml")
        for turn in of_form("yesno"):
            question = turn.prompt.splitlines()[0]
            row = {"question": f"{question} Please answer yes or no."}
            assert turn.prompt == mme_doc_to_text(row, settings)

    def test_textvqa(self) -> None:
        from lmms_eval.tasks.textvqa.utils import textvqa_doc_to_text

        settings = post_prompt("textvqa/_default_template_textvqa_yaml")
        for row in visual.pocket_textvqa("dev", 8):
            asked = textvqa_doc_to_text(row, settings)
            assert asked == row["question"].capitalize() + SHORT
        assert all(t.prompt == t.prompt.splitlines()[0].capitalize() + SHORT for t in of_form("open"))


def of_form(form: str) -> Iterator[TrainingTurn]:
    """Training turns of one form: "yesno", "letter" or "open"."""
    for index in range(60):
        yield from (t for t in turns(scene("train", index), 6) if t.kind.startswith(form))


class TestTurns:
    def test_their_answers_are_right(self) -> None:
        forms: Counter[str] = Counter()
        for index in range(150):
            of = scene("train", index)
            made = turns(of, 6)
            assert made == turns(of, 6) and len(made) <= 6
            for turn in made:
                form, _, kind = turn.kind.partition("/")
                forms[form] += 1
                question = turn.prompt.split("?")[0] + "?"
                right = truth.answer(question, of)
                if form == "letter":
                    options = dict(line.split(". ") for line in turn.prompt.splitlines() if line[1:3] == ". ")
                    assert [letter for letter, option in options.items() if option == right] == [turn.answer]
                else:
                    assert turn.answer == right
                assert kind in (YES_NO_PAIRS if form == "yesno" else QUESTIONS)
        assert set(forms) == {"yesno", "letter", "open"} and min(forms.values()) > 50

    def test_a_caption_names_everything_from_top_to_bottom(self) -> None:
        for index in range(40):
            of = scene("train", index)
            said = caption(of).answer
            parts = said.split(", ")
            assert len(parts) == max(1, len(of.objects) + len(of.words))
            named = sorted([(t.y, t.name) for t in of.objects] + [(w.y, w.text) for w in of.words])
            assert all(name in part for (_, name), part in zip(named, parts, strict=False))
