"""Made-up answers of models: answer letters in many formats, yes and no, numbers, texts, and none of these."""

from __future__ import annotations

import ast
import random
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

LETTER = (
    "{letter}", "{letter}.", "({letter})", "{letter}. {text}", "**{letter}**", "Answer: {letter}", "{small}",
    "{letter})", "The answer is {letter}.", "The answer is ({letter}) {text}.", "Option {letter}", "{text}",
    "{letter}\n", "{small}.", "{letter}: {text}", "{letter}, because of the light", "A {text}",
    "{letter} or {other}", "答案是{letter}", "<{letter}>",
    "I think that it is {text}, but it may be something else.", "{letter} {text}", " {letter} ",
    "{other}? No, {letter}.", "正确答案是 {letter}。", "`{letter}`", "({letter}) {text}", "{letter}{other}",
    "Réponse : {letter}", "E", "Z", "{TEXT}",
)  # fmt: skip
YES_NO = (
    "{word}", "{word}.", "{WORD}", "{Word}, there is one.", "{Word}!", "{initial}", "{Initial}.", "**{Word}**",
    " {word} ", "The answer is {word}.", "{word} and {other}", "Not {word}", "Yesterday", "Nothing", "Nope", "Yeah",
    "Sí", "是", "否", "{Word}\n\nThe picture shows it.", "It is not clear.", "{word}{word}", "Answer: {Word}",
    "I know: {word}", "ja", "...",
)  # fmt: skip
TEXT = (
    "{text}", "{TEXT}", "{text}.", "the {text}", "It is {text}.", "Answer: {text}", "**{text}**", "  {text}  ",
    "{words}", "{text}\nBecause one sees it.", "a {text}", "{text} cm", "{text}%", "${text}", "{text}, {other}",
    "{other}", "{nfd}", "The answer is {text}", "about {text} of them", "{text}?", "“{text}”", "{text} {text}",
    "{cut}", "unanswerable", "two", "There are {text}", " = {text}", "{text} P.M.", "Unanswerable", "{text};",
    "({text})", "-{text}", "0{text}", "{text}0",
)  # fmt: skip
ALWAYS = (
    "", " ", "\n", "So, as one can see, " * 400, "Ich weiß es nicht.", "我不知道。", "🙂", "\u200b", "1/0", "1.2.3",
    "None",
)  # fmt: skip
WORDS = {"3": "three", "10": "ten", "two cups": "2 cups", "42%": "0.42", "12.5": "12.9", "1,250": "1250"}
SHARE_ALWAYS = 0.1
SHARE_RIGHT = 0.6


def answers(task: str, rows: Sequence[Row]) -> list[str]:
    """One answer an item, drawn by the task's name; more than half say what is right, in some dress."""
    draw = random.Random(task)
    return [_answer(draw, *_truth(task, row)) for row in rows]


def _answer(draw: random.Random, kind: str, right: int, options: Sequence[str]) -> str:
    """One answer; the options are texts, of which one is right."""
    if draw.random() < SHARE_ALWAYS:
        return draw.choice(ALWAYS)
    meant = right if draw.random() < SHARE_RIGHT else draw.randrange(len(options))
    text, other = options[meant], options[meant - 1]
    letter = chr(ord("A") + meant)
    if kind == "letter":
        said = {"letter": letter, "small": letter.lower(), "text": text, "TEXT": text.upper()}
        return draw.choice(LETTER).format(**said, other=chr(ord("A") + (meant + 1) % len(options)))
    if kind == "yes/no":
        said = {"word": text, "WORD": text.upper(), "Word": text.capitalize(), "initial": text[0]}
        return draw.choice(YES_NO).format(**said, Initial=text[0].upper(), other=other)
    said = {"text": text, "TEXT": text.upper(), "words": WORDS.get(text, text.lower()), "other": other}
    return draw.choice(TEXT).format(**said, nfd=unicodedata.normalize("NFD", text), cut=text[:-1])


def _truth(task: str, row: Row) -> tuple[str, int, Sequence[str]]:
    """Kind of answer, place of the right one, and what may be answered."""
    if task in ("mme", "pope"):
        return "yes/no", int(row["answer"].lower() == "no"), ("yes", "no")
    if task == "hallusionbench":
        return "yes/no", int(row["gt_answer"] == "0"), ("yes", "no")
    if task.startswith("mmbench"):
        return "letter", "ABCD".index(row["answer"]), [row[x] for x in "ABCD" if row[x] != "nan"]
    if task == "seedbench":
        return "letter", "ABCD".index(row["answer"]), [row[f"choice_{x}"] for x in "abcd"]
    if task in ("scienceqa_img", "ai2d"):
        return "letter", int(row["answer"]), row["choices" if task == "scienceqa_img" else "options"]
    if task == "mmmu_val" and row["question_type"] == "multiple-choice":
        return "letter", "ABCDE".index(row["answer"]), ast.literal_eval(row["options"])
    if task == "tabmwp" and row["choices"]:
        return "letter", row["choices"].index(row["answer"]), row["choices"]
    right = row["answers"][0] if "answers" in row else row["answer"]
    return "text", 0, (right, "three", "12", "the green table")
