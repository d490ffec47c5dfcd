"""Every scorer, one decorated function each; to add one, write its function.

The scoring itself is the harness's own, so the numbers equal those of lm-eval and lmms-eval: a function here picks what
belongs to one item from the harness's output. Its docstring is the rule that docs/tasks.md lists.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.tasks import tabmwp as tabmwp_rule
from vrbench.tasks.scoring import (
    Aggregates,
    ItemScore,
    Row,
    ScoredDocument,
    Scorer,
    ScorerExample,
    check_option,
    invalid_target_message,
    is_empty,
    mean_of,
)

SCORERS: dict[str, Scorer] = {}
"""Name -> scorer; filled by the decorator."""

LMMS, LM = "lmms-eval", "lm-eval"
LETTERS = tuple("ABCD")


def scorer(harness: str, official: Callable[[Aggregates], float], **more: Any) -> Callable[..., Scorer]:
    """Register a function as a scorer; its name is the scorer's and its docstring the rule.

    Args:
        harness: name of the harness, or several separated by commas.
        official: as in `Scorer`.
        more: further fields of `Scorer`.
    """

    def register(function: Callable[[ScoredDocument], ItemScore]) -> Scorer:
        name, rule = function.__name__, " ".join((function.__doc__ or "").split())
        SCORERS[name] = Scorer(name, function, rule, tuple(harness.split(",")), official, **more)
        return SCORERS[name]

    return register


def _generated_score(document: ScoredDocument, score: Any, target: Any = None) -> ItemScore:
    """Return the score of a generated answer; the target shown is the column `answer` unless another is given."""
    return ItemScore(float(score), document.responses[0], document.doc["answer"] if target is None else target)


def _check_target_is_option(document: ScoredDocument, gold: str, options: Sequence[str]) -> str:
    if gold not in options:
        allowed = ", ".join(options)
        raise VrbenchError(f"item {document.key.id}: the right answer, {gold!r}, is none of the options {allowed}")
    return gold


def _most_frequent(answers: Sequence[str] | None) -> str:
    return Counter(answers or [""]).most_common(1)[0][0]


def _metric(metric: str, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True, **more}


def _check_yes_no(target: Any, row: Row) -> str:
    known = str(target).strip().lower() in ("yes", "no")
    return "" if known else f"the right answer, {target!r}, is neither yes nor no"


def _check_human_answers(target: Any, row: Row) -> str:
    answers = row.get("answers")
    if is_empty(answers):
        return "it has no answer (empty: answers)"
    nothing = sum(answer is None for answer in answers or ())
    return f"{nothing} of its answers are empty" if nothing else ""


def _mme_official(parts: Aggregates) -> float:
    """Return the sum over subtasks of acc + acc+, as a share of 200 each; the harness adapter counts `subtasks`."""
    ((_, aggregates),) = parts
    points = sum(v for name, v in aggregates.items() if name in ("mme_perception_score", "mme_cognition_score"))
    return points / (200 * aggregates["subtasks"]) * 100


def _mme_pairs(rows: Iterable[Row]) -> Iterator[tuple[int, str]]:
    pairs = [(row["category"], row["question_id"]) for row in rows]
    size = Counter(pairs)
    for number, (subtask, image) in enumerate(pairs):
        if (n := size[subtask, image]) != 2:
            yield number, f"MME counts pairs, but image {image!r} of subtask {subtask} has {n} questions"


@scorer(
    LMMS, _mme_official, metric="mme", template="mme/mme.yaml", needs=("unit", "group"), check_target=_check_yes_no,
    check_units=_mme_pairs, columns=("answer", "category", "question_id"),
    examples=(ScorerExample({"question": "Is it red?", "answer": "Yes", "category": "color", "question_id": "1"},
                            ("Yes", "yes.", "Y", "Yes, it is"), ("No", "", "Certainly yes")),),
)  # fmt: skip
def mme(document: ScoredDocument) -> ItemScore:
    """The answer, in lower case and without full stops, is read as yes or no if it is yes, no, y or n, or if its first
    four characters contain yes (else no); the result must equal `answer`."""
    (result,) = document.metrics.values()
    return _generated_score(document, result["score"])


def _mmbench_static(read_config: Callable[[str], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return lmms-eval's aggregation without a judge, which exists in its English task alone but fits any language."""
    return {"metric_list": read_config("mmbench/mmbench_en_dev_static.yaml")["metric_list"]}


def _check_letter_column(target: Any, row: Row) -> str:
    here = [letter for letter in "ABCDEFGH" if str(row.get(letter) or "").strip() not in ("", "nan")]
    return "" if target in here else f"the right answer, {target!r}, is none of the options {', '.join(here)}"


def _mmbench_rotations(rows: Iterable[Row]) -> Iterator[tuple[int, str]]:
    first = {row["index"] for row in rows}
    for number, row in enumerate(rows):
        if row["index"] % 1_000_000 not in first:
            yield number, f"the first rotation of its question, index {row['index'] % 1_000_000}, is missing"


@scorer(
    LMMS, mean_of("gpt_eval_score", 1), metric="circular", template="mmbench/mmbench_en_dev_static.yaml",
    overrides=_mmbench_static, needs=("unit",), check_target=_check_letter_column, check_units=_mmbench_rotations,
    columns=("index", "question", "hint", *"ABCD", "answer", "source", "split", "category", "L2-category"),
    examples=(ScorerExample({"index": 1, "question": "What is it?", "hint": "", "A": "a dog", "B": "a cat", "C": "tea",
                             "D": "nan", "answer": "B", "source": "made", "split": "dev", "category": "animals",
                             "L2-category": "all"}, ("B", "(B)", "B. a cat", "a cat"), ("A", "a dog")),),
)  # fmt: skip
def mmbench(document: ScoredDocument) -> ItemScore:
    """The only option letter that stands as a word in the answer (also with . , : or brackets), else the only option
    whose text it contains, else the result of lmms-eval's `extract_mcq_answer`; it must equal `answer`."""
    import pandas as pd
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    row = document.metrics["gpt_eval_score"]
    gold = _check_target_is_option(document, row["answer"], LETTERS)
    rows = pd.DataFrame([{**row, "prediction": str(row["prediction"])}])
    # The harness scores whole questions; its static matching of one rotation is called directly.
    right = MMBench_Evaluator().eval_sub_data(rows, {row["index"]: gold}, static_only=True)
    return _generated_score(document, right, gold)


def _check_letter_choice(target: Any, row: Row) -> str:
    here = [letter for letter in LETTERS if not is_empty(row.get(f"choice_{letter.lower()}"))]
    return "" if str(target).strip().upper() in here else f"the right answer, {target!r}, is none of {', '.join(here)}"


@scorer(
    LMMS, mean_of("seed_all"), template="seedbench/seedbench.yaml", check_target=_check_letter_choice,
    columns=("choice_a", "choice_b", "choice_c", "choice_d", "answer", "data_type", "question_id"),
    examples=(ScorerExample({"question": "What is it?", "choice_a": "a dog", "choice_b": "a cat", "choice_c": "tea",
                             "choice_d": "", "answer": "B", "data_type": "image", "question_id": "1"},
                            ("B", "b.", "B. a cat"), ("A", "(B)", "")),),
)  # fmt: skip
def seed(document: ScoredDocument) -> ItemScore:
    """The first character of the answer, in either case, must be the letter in `answer`."""
    result = document.metrics["seed_all"]
    gold = _check_target_is_option(document, result["answer"].strip().upper(), LETTERS)
    return _generated_score(document, result["pred"].strip().upper() == gold, gold)


@scorer(
    LMMS, mean_of("exact_match"), template="textvqa/textvqa_val.yaml", check_target=_check_human_answers,
    columns=("answers", "question_id"),
    examples=(ScorerExample({"question": "What does it say?", "answers": ["two cups"] * 10, "question_id": 1},
                            ("two cups", "2 cups", "The two cups."), ("three cups", "")),),
)  # fmt: skip
def textvqa(document: ScoredDocument) -> ItemScore:
    """Mean over the `answers`, each left out in turn, of min(1, number of the others equal to the answer / 3); texts
    are normalised as by EvalAI (case, punctuation, articles, number words)."""
    return _generated_score(document, document.metrics["exact_match"], _most_frequent(document.doc.get("answers")))


@scorer(
    LMMS, mean_of("anls"), template="docvqa/docvqa_val.yaml", check_target=_check_human_answers, columns=("answers",),
    examples=(ScorerExample({"question": "Which day?", "answers": ["Monday"]}, ("Monday", "MONDAY"), ("in May", "")),),
)  # fmt: skip
def anls(document: ScoredDocument) -> ItemScore:
    """1 minus the smallest edit distance to one of `answers`, relative to the length, ignoring case and repeated
    spaces; 0 if that is below 0.5."""
    return _generated_score(document, document.metrics["anls"], _most_frequent(document.doc["answers"]))


@scorer(
    LMMS, mean_of("relaxed_overall"), template="chartqa/chartqa.yaml", columns=("answer", "type"),
    examples=(ScorerExample({"question": "How many?", "answer": "100", "type": "human_test"},
                            ("100", "104", "96"), ("106", "a hundred", "")),),
)  # fmt: skip
def chartqa(document: ScoredDocument) -> ItemScore:
    """A number within 5 % of `answer` ("%" means hundredths), else the same text, ignoring case."""
    return _generated_score(document, document.metrics["relaxed_overall"])


@scorer(
    LMMS, mean_of("pope_accuracy"), template="pope/pope.yaml", check_target=_check_yes_no,
    columns=("answer", "question_id"),
    examples=(ScorerExample({"question": "Is there a dog?", "answer": "yes", "question_id": "1"},
                            ("yes", "Yes", " yes "), ("Yes.", "no", "")),),
)  # fmt: skip
def pope(document: ScoredDocument) -> ItemScore:
    """The complete answer must equal `answer` (yes or no), ignoring case: "Yes." is wrong."""
    return _generated_score(document, document.metrics["pope_accuracy"]["score"])


def _mmmu_options(row: Row) -> list[str]:
    return [chr(ord("A") + i) for i in range(len(ast.literal_eval(row["options"])))]


def _check_mmmu_target(target: Any, row: Row) -> str:
    kind = row["question_type"]
    if kind not in ("multiple-choice", "open"):
        return f"the question's type, {kind!r}, is neither multiple-choice nor open"
    return "" if kind == "open" else check_option(target, _mmmu_options(row))


@scorer(
    LMMS, mean_of("mmmu_acc"), template="mmmu/mmmu_val.yaml", decimals=5, check_target=_check_mmmu_target,
    credits_unreadable=True, columns=("id", "question_type", "answer", "options"),
    examples=(ScorerExample({"id": "validation_Art_1", "question": "What is it?", "question_type": "multiple-choice",
                             "answer": "B", "options": "['a dog', 'a cat']"}, ("B", "(B)", "B."), ("A", "(A)")),
              ScorerExample({"id": "validation_Art_2", "question": "How many?", "question_type": "open",
                             "answer": "12", "options": "[]"}, ("12", "It is 12."), ("13", ""))),
)  # fmt: skip
def mmmu(document: ScoredDocument) -> ItemScore:
    """With options: the letter in brackets, by itself or before a full stop, else the option whose text is in an answer
    of more than five words, the last of several; if there is none, lmms-eval draws an option at random. Open questions:
    a number in the answer equals `answer`, or a key phrase of the answer contains `answer`."""
    from lmms_eval.tasks.mmmu.utils import evaluate_mmmu

    if document.doc["question_type"] == "multiple-choice":
        _check_target_is_option(document, document.doc["answer"], _mmmu_options(document.doc))
    _, found = evaluate_mmmu([document.metrics["mmmu_acc"]])
    return _generated_score(document, found["acc"], str(document.doc["answer"]))


def _hallusionbench_rule(read_config: Any) -> Mapping[str, Any]:
    """Return lmms-eval's aggregation without a judge, named in a comment of its YAML next to that with GPT-4."""
    from lmms_eval.tasks.hallusion_bench import evaluate_hb

    names = ("aAcc", "qAcc", "fAcc")
    return {
        "metric_list": [
            _metric(name, aggregation=getattr(evaluate_hb, f"hb_aggregation_result_{name}_intern")) for name in names
        ]
    }


def _check_hallusionbench_target(target: Any, row: Row) -> str:
    answer = row["gt_answer"]  # what is scored; the target is a sentence
    return "" if answer in ("0", "1") else f"the right answer, {answer!r}, is neither '0' (no) nor '1' (yes)"


@scorer(
    LMMS, mean_of("aAcc"), template="hallusion_bench/hallusion_bench_image.yaml", overrides=_hallusionbench_rule,
    check_target=_check_hallusionbench_target, credits_unreadable=True, columns=("gt_answer",),
    examples=(ScorerExample({"question": "Is it red?", "gt_answer": "1"}, ("Yes", "Oh yes!"), ("No", "")),
              ScorerExample({"question": "Is it red?", "gt_answer": "0"}, ("No", "", "Maybe"), ("Yes.",))),
)  # fmt: skip
def hallusionbench(document: ScoredDocument) -> ItemScore:
    """An answer that contains yes, ignoring case, is read as 1, any other as 0; it must equal `gt_answer`."""
    from lmms_eval.tasks.hallusion_bench.evaluate_hb import hb_aggregation_result_aAcc_intern

    gold = _check_target_is_option(document, document.doc["gt_answer"], ("0", "1"))
    right = hb_aggregation_result_aAcc_intern([dict(document.metrics["aAcc"])])
    return _generated_score(document, right, "yes" if gold == "1" else "no")


def _check_tabmwp_target(target: Any, row: Row) -> str:
    options, unit = row["choices"] or [], row["unit"] or ""
    known = {tabmwp_rule.normalise(option, unit).lower() for option in options}
    is_known = tabmwp_rule.normalise(target, unit).lower() in known
    return "" if not options or is_known else invalid_target_message(target, options)


@scorer(
    LMMS, mean_of("accuracy"), check_target=_check_tabmwp_target, columns=("answer", "choices", "unit"),
    config={"output_type": "generate_until", "process_results": tabmwp_rule.process_results,
            "metric_list": [_metric("accuracy")]},
    examples=(ScorerExample({"question": "How much?", "answer": "1250", "choices": None, "unit": "$"},
                            ("1,250", "The answer is $1,250."), ("125", "")),
              ScorerExample({"question": "Which?", "answer": "linear", "choices": ["linear", "nonlinear"], "unit": ""},
                            ("A", "(A) linear", "linear"), ("B", "(B)"))),
)  # fmt: skip
def tabmwp(document: ScoredDocument) -> ItemScore:
    """The option or number that TabMWP's published rule extracts from the answer, to three decimal places and without
    `unit`, must equal `answer`, ignoring case."""
    return _generated_score(document, document.metrics["accuracy"])


@scorer(
    f"{LM},{LMMS}", mean_of("exact_match"),
    config={"output_type": "generate_until",
            "metric_list": [_metric("exact_match", ignore_case=True, ignore_punctuation=True)]},
    examples=(ScorerExample({"question": "Which capital?", "answer": "Paris"}, ("Paris", "paris."), ("It is Paris",)),),
)  # fmt: skip
def exact_match(document: ScoredDocument) -> ItemScore:
    """The generated text, after the harness's filter, must equal the target; in tasks with their own `prompt`, case
    and punctuation are ignored."""
    return _generated_score(document, document.metrics["exact_match"], str(document.task.doc_to_target(document.doc)))


def _options(document: ScoredDocument) -> list[str]:
    return [str(option) for option in document.task.doc_to_choice(document.doc)]


def _loglikelihoods(document: ScoredDocument) -> tuple[float, ...]:
    return tuple(log for log, _ in document.responses)


def _choice_score(document: ScoredDocument, metric: str, options: Sequence[str], index: int) -> ItemScore:
    """Return the score of a choice; where the target is no option, the item is unscored (lm-eval calls it wrong)."""
    task = document.task
    gold = task.doc_to_text(document.doc) if task.multiple_input else task.doc_to_target(document.doc)
    right = options.index(gold) if isinstance(gold, str) and gold in options else gold
    known = isinstance(right, int) and 0 <= right < len(options)
    return ItemScore(
        score=float(document.metrics[metric]),
        answer=options[index],
        target=options[right] if known else str(gold),
        loglikelihoods=_loglikelihoods(document),
        unscored="" if known else invalid_target_message(gold, options),
    )


_CHOICE = {"question": "What does a cow say?", "choices": ["moo", "woof woof"], "answer": 0}


@scorer(
    LM, mean_of("acc"), needs=("choices",), config={"output_type": "multiple_choice", "metric_list": [_metric("acc")]},
    examples=(ScorerExample(_CHOICE, ([(-1.0, True), (-2.0, False)], [(-1.0, False), (-1.0, False)]),
                            ([(-2.0, False), (-1.0, True)],)),),
)  # fmt: skip
def multiple_choice(document: ScoredDocument) -> ItemScore:
    """The option with the highest log-likelihood (the first, if several are equal) must be the target."""
    logs = _loglikelihoods(document)
    return _choice_score(document, "acc", _options(document), logs.index(max(logs)))


@scorer(
    LM, mean_of("acc_norm"),
    config={"output_type": "multiple_choice", "metric_list": [_metric("acc"), _metric("acc_norm")]},
    examples=(ScorerExample(_CHOICE, ([(-1.0, True), (-4.0, False)],), ([(-1.0, True), (-2.0, False)],)),),
)  # fmt: skip
def multiple_choice_norm(document: ScoredDocument) -> ItemScore:
    """Like multiple_choice, with each log-likelihood divided by the option's length in characters."""
    import numpy as np

    options = _options(document)
    with np.errstate(divide="ignore", invalid="ignore"):
        lengths = np.array([float(len(option)) for option in options])
        index = int(np.argmax(np.array(_loglikelihoods(document)) / lengths))
    return _choice_score(document, "acc_norm", options, index)


@scorer(
    LM, mean_of("acc"), template="truthfulqa/truthfulqa_mc2.yaml", columns=("mc2_targets",),
    examples=(ScorerExample({"question": "Is it?", "mc2_targets": {"choices": ["yes", "no"], "labels": [1, 0]}},
                            ([(0.0, True), (-800.0, False)],), ([(-800.0, False), (0.0, True)],)),),
)  # fmt: skip
def mc2(document: ScoredDocument) -> ItemScore:
    """Share of the options' total probability that is on the options marked as true in `mc2_targets`."""
    options, logs = _options(document), _loglikelihoods(document)
    labels = list(document.doc["mc2_targets"]["labels"])
    score = float(document.metrics["acc"])
    unscored = ""
    if 1 not in labels:
        unscored = "no option is marked as true"
    elif not math.isfinite(score):
        unscored = "the probabilities of all options are too small to be compared"
    return ItemScore(
        score=0.0 if unscored else score,
        answer=options[logs.index(max(logs))],
        target=options[labels.index(1)] if 1 in labels else "",
        loglikelihoods=logs,
        unscored=unscored,
    )


@scorer(
    LM, mean_of("acc"), template="lambada/lambada_openai.yaml",
    examples=(ScorerExample({"question": "The sky is", "answer": "blue"}, ([(-1.0, True)],), ([(-1.0, False)],)),),
)  # fmt: skip
def last_word(document: ScoredDocument) -> ItemScore:
    """Greedy decoding after the prompt must give exactly the target."""
    target = str(document.task.doc_to_target(document.doc)).strip()
    right = float(document.metrics["acc"])  # the harness does not say what a wrong answer is
    return ItemScore(right, target if right else "", target, loglikelihoods=_loglikelihoods(document))


@scorer(
    LM, mean_of("word_perplexity", 1), metric="perplexity",
    config={"output_type": "loglikelihood_rolling",
            "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity",
                             "higher_is_better": False}]},
)  # fmt: skip
def perplexity(document: ScoredDocument) -> ItemScore:
    """Log-likelihood of the whole text, and its number of words."""
    log, words = document.metrics["word_perplexity"]
    return ItemScore(log, "", "", weight=float(words))
