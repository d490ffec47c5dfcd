"""How lmms-eval's scorings of visual tasks are read."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.tasks import tabmwp
from vrbench.tasks.scoring import Aggregates, ItemScore, ScoredDocument, Scorer, mean_of

LETTERS = tuple("ABCD")


def _checked(document: ScoredDocument, gold: str, options: Sequence[str]) -> str:
    """The right answer, seen to be one of the options."""
    if gold not in options:
        allowed = ", ".join(options)
        raise VrbenchError(f"item {document.identity.id}: the right answer, {gold!r}, is none of the options {allowed}")
    return gold


def _most(answers: Sequence[str] | None) -> str:
    """The answer that most people gave, which is the target that is shown."""
    return Counter(answers or [""]).most_common(1)[0][0]


def _mme(document: ScoredDocument) -> ItemScore:
    (result,) = document.metrics.values()
    return ItemScore(result["score"], document.responses[0], document.doc["answer"])


def _mme_official(parts: Aggregates) -> float:
    """Sum over subtasks of acc + acc+, as a share of 200 each; `subtasks` is what the engine counted."""
    ((_, aggregates),) = parts
    points = sum(v for name, v in aggregates.items() if name in ("mme_perception_score", "mme_cognition_score"))
    return points / (200 * aggregates["subtasks"]) * 100


def _mmbench(document: ScoredDocument) -> ItemScore:
    """Right or wrong of one rotation, by the harness's own static matching; the harness only tells whole questions."""
    import pandas as pd
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    row = document.metrics["gpt_eval_score"]
    gold = _checked(document, row["answer"], LETTERS)
    rows = pd.DataFrame([{**row, "prediction": str(row["prediction"])}])
    right = MMBench_Evaluator().eval_sub_data(rows, {row["index"]: gold}, static_only=True)
    return ItemScore(float(right), document.responses[0], gold)


def _mmbench_static() -> Mapping[str, Any]:
    """The judge-free aggregation, which lmms-eval names for English alone; it asks nothing of the language."""
    from vrbench.evaluation.lmms_eval_adapter import LmmsEvalAdapter

    return {"metric_list": LmmsEvalAdapter().read_config("mmbench/mmbench_en_dev_static.yaml")["metric_list"]}


def _seed(document: ScoredDocument) -> ItemScore:
    result = document.metrics["seed_all"]
    gold = _checked(document, result["answer"].strip().upper(), LETTERS)
    right = result["pred"].strip().upper() == gold
    return ItemScore(float(right), document.responses[0], gold)


def _textvqa(document: ScoredDocument) -> ItemScore:
    return ItemScore(document.metrics["exact_match"], document.responses[0], _most(document.doc.get("answers")))


def _anls(document: ScoredDocument) -> ItemScore:
    return ItemScore(float(document.metrics["anls"]), document.responses[0], _most(document.doc["answers"]))


def _chartqa(document: ScoredDocument) -> ItemScore:
    return ItemScore(document.metrics["relaxed_overall"], document.responses[0], document.doc["answer"])


def _pope(document: ScoredDocument) -> ItemScore:
    return ItemScore(document.metrics["pope_accuracy"]["score"], document.responses[0], document.doc["answer"])


def _mmmu(document: ScoredDocument) -> ItemScore:
    """Right or wrong by the harness's own evaluation of one item."""
    from lmms_eval.tasks.mmmu.utils import evaluate_mmmu

    doc = document.doc
    if doc["question_type"] == "multiple-choice":
        options = ast.literal_eval(doc["options"])
        _checked(document, doc["answer"], [chr(ord("A") + i) for i in range(len(options))])
    _, found = evaluate_mmmu([document.metrics["mmmu_acc"]])
    return ItemScore(float(found["acc"]), document.responses[0], str(doc["answer"]))


def _hallusionbench(document: ScoredDocument) -> ItemScore:
    """Right or wrong by the harness's own rule without a judge, of one item."""
    from lmms_eval.tasks.hallusion_bench.evaluate_hb import hb_aggregation_result_aAcc_intern

    gold = _checked(document, document.doc["gt_answer"], ("0", "1"))
    right = hb_aggregation_result_aAcc_intern([dict(document.metrics["aAcc"])])
    return ItemScore(float(right), document.responses[0], "yes" if gold == "1" else "no")


def _hallusionbench_rule() -> Mapping[str, Any]:
    """lmms-eval's aggregation without a judge, which its YAML names in a comment beside the one that asks GPT-4."""
    from lmms_eval.tasks.hallusion_bench import evaluate_hb as hb

    by_rule = {
        "aAcc": hb.hb_aggregation_result_aAcc_intern,
        "qAcc": hb.hb_aggregation_result_qAcc_intern,
        "fAcc": hb.hb_aggregation_result_fAcc_intern,
    }
    return {
        "metric_list": [{"metric": m, "aggregation": rule, "higher_is_better": True} for m, rule in by_rule.items()]
    }


def _tabmwp(document: ScoredDocument) -> ItemScore:
    return ItemScore(document.metrics["accuracy"], document.responses[0], document.doc["answer"])


VISUAL: dict[str, Scorer] = {
    "mme": Scorer(
        _mme,
        "mme",
        _mme_official,
        template="mme/mme.yaml",
        rule="Lower-cased and without full stops, the answer is yes, no, y or n, or has yes (else no) in its "
        "first four characters; that must be `answer`.",
        columns=("answer", "category", "question_id"),
    ),
    "mmbench": Scorer(
        _mmbench,
        "circular",
        mean_of("gpt_eval_score", 1),
        template="mmbench/mmbench_en_dev_static.yaml",
        instead=_mmbench_static,
        rule="The one letter that is a word of the answer, bare or with . , : or brackets, else the one option whose "
        "text is in it, else what lmms-eval's `extract_mcq_answer` finds; that must be `answer`.",
        columns=("index", "question", "hint", *"ABCD", "answer", "source", "split", "category", "L2-category"),
    ),
    "seed": Scorer(
        _seed,
        "mean",
        mean_of("seed_all", 100),
        template="seedbench/seedbench.yaml",
        rule="The first character of the answer, in either case, must be the letter in `answer`.",
        columns=("choice_a", "choice_b", "choice_c", "choice_d", "answer", "data_type", "question_id"),
    ),
    "textvqa": Scorer(
        _textvqa,
        "mean",
        mean_of("exact_match", 100),
        template="textvqa/textvqa_val.yaml",
        rule="Mean over the `answers` of min(1, how many of the others are the answer / 3), all normalised as "
        "EvalAI does (case, punctuation, articles, number words).",
        columns=("answers", "question_id"),
    ),
    "anls": Scorer(
        _anls,
        "mean",
        mean_of("anls", 100),
        template="docvqa/docvqa_val.yaml",
        rule="1 less the smallest edit distance to one of `answers`, by length, without regard to case and runs "
        "of spaces; 0 where that is under 0.5.",
        columns=("answers",),
    ),
    "chartqa": Scorer(
        _chartqa,
        "mean",
        mean_of("relaxed_overall", 100),
        template="chartqa/chartqa.yaml",
        rule='A number within 5 % of `answer` ("%" stands for hundredths), else the same text in any case.',
        columns=("answer", "type"),
    ),
    "pope": Scorer(
        _pope,
        "mean",
        mean_of("pope_accuracy", 100),
        template="pope/pope.yaml",
        rule='The whole answer, in any case, must be `answer`, yes or no: "Yes." is wrong.',
        columns=("answer", "question_id"),
    ),
    "mmmu": Scorer(
        _mmmu,
        "mean",
        mean_of("mmmu_acc", 100),
        template="mmmu/mmmu_val.yaml",
        decimals=5,
        rule="Options: the letter in brackets, by itself or before a full stop, else the option whose text is in"
        " an answer of more than five words, the last of several; where there is none, lmms-eval draws one."
        " Open questions: a number of the answer equals `answer`, or a key phrase of it contains `answer`.",
        columns=("id", "question_type", "answer", "options"),
    ),
    "hallusionbench": Scorer(
        _hallusionbench,
        "mean",
        mean_of("aAcc", 100),
        template="hallusion_bench/hallusion_bench_image.yaml",
        instead=_hallusionbench_rule,
        rule="An answer with yes in it, in any case, says 1, every other 0; that must be `gt_answer`.",
        columns=("gt_answer",),
    ),
    "tabmwp": Scorer(
        _tabmwp,
        "mean",
        mean_of("accuracy", 100),
        config={
            "output_type": "generate_until",
            "process_results": tabmwp.process_results,
            "metric_list": [{"metric": "accuracy", "aggregation": "mean", "higher_is_better": True}],
        },
        rule="The option or number that TabMWP's published rule reads out of the answer, to three places and "
        "without `unit`, must be `answer` in any case.",
        columns=("answer", "choices", "unit"),
    ),
}
