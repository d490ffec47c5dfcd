"""How lmms-eval's scorings of visual tasks are read."""

from __future__ import annotations

from collections import Counter

from vrbench.engine.scoring import Aggregates, Document, Mark, Scorer, mean_of


def _mme(document: Document) -> Mark:
    (result,) = document.metrics.values()
    return Mark(result["score"], document.responses[0], document.doc["answer"])


def _mme_official(parts: Aggregates) -> float:
    """Sum over subtasks of acc + acc+, as a share of 200 each; `subtasks` is what the engine counted."""
    ((_, aggregates),) = parts
    points = sum(v for name, v in aggregates.items() if name in ("mme_perception_score", "mme_cognition_score"))
    return points / (200 * aggregates["subtasks"]) * 100


def _mmbench(document: Document) -> Mark:
    """Right or wrong of one rotation, by the harness's own static matching; the harness only tells whole questions."""
    import pandas as pd
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    row = document.metrics["gpt_eval_score"]
    rows = pd.DataFrame([{**row, "prediction": str(row["prediction"])}])
    right = MMBench_Evaluator().eval_sub_data(rows, {row["index"]: row["answer"]}, static_only=True)
    return Mark(float(right), document.responses[0], row["answer"])


def _seed(document: Document) -> Mark:
    result = document.metrics["seed_all"]
    right = result["pred"].lower().strip() == result["answer"].lower().strip()
    return Mark(float(right), document.responses[0], result["answer"])


def _textvqa(document: Document) -> Mark:
    """The target that is shown is the answer that most people gave."""
    answers = Counter(document.doc.get("answers") or [""])
    return Mark(document.metrics["exact_match"], document.responses[0], answers.most_common(1)[0][0])


VISUAL: dict[str, Scorer] = {
    "mme": Scorer(_mme, "mme", _mme_official, template="mme/mme.yaml"),
    "mmbench": Scorer(
        _mmbench, "circular", mean_of("gpt_eval_score", 1), template="mmbench/mmbench_en_dev_static.yaml"
    ),
    "seed": Scorer(_seed, "mean", mean_of("seed_all", 100), template="seedbench/seedbench.yaml"),
    "textvqa": Scorer(_textvqa, "mean", mean_of("exact_match", 100), template="textvqa/textvqa_val.yaml"),
}
