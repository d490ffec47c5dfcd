"""How a family is asked about images: what it takes over from lmms-eval's model class, and where it differs and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vrbench.checkpoints import prompts

StopRule = Callable[[Sequence[str]], tuple[str, ...]]
"""`until` of a harness's task -> the texts that end an answer."""


def no_stop_text(until: Sequence[str]) -> tuple[str, ...]:
    """None: the class takes `until` and never uses it."""
    return ()


def all_but_blank_lines(until: Sequence[str]) -> tuple[str, ...]:
    """All but a blank line, which the class takes out, since an answer of two paragraphs would be cut."""
    return tuple(text for text in until if text != "\n\n")


def as_generated(answer: str) -> str:
    """The answer as it is."""
    return answer


def final_answer(answer: str) -> str:
    """What a reasoning model says in the end, without its thoughts and the white space around it; by lmms-eval."""
    from lmms_eval.models.model_utils.reasoning_model_utils import parse_reasoning_model_answer

    return str(parse_reasoning_model_answer(answer)).rsplit("</think>", 1)[-1].strip()


@dataclass(frozen=True)
class PromptFormat:
    """How a family is asked; one entry of `vrbench.checkpoints.families.FAMILIES` holds all of it.

    Attributes:
        prompt: (processor, text, number of images) -> the whole prompt of a question, or a conversation; a packed
            family is given the tokenizer in the processor's place.
        follows: lmms-eval's model class under lmms_eval.models, such as "simple.qwen3_vl.Qwen3_VL".
        written: the prompt in words, for the documents.
        placed: where images stand in it, for the documents.
        longest: tokens of an answer at most where the task names no length, as in the class.
        stops: what of a harness's `until` ends an answer. A task file's own `generation` is not asked: its stop texts
            are a part of the task and hold for every family.
        finish: what the class does with the decoded answer.
        special_tokens: whether the tokenizer adds its own to a prompt with images; by default if the prompt does not
            begin with one.
        pictures: settings of the image processor, as the class gives them.
        flat: whether images are given to the processor without saying which of them belong together.
        prefix: whether the decoder reads a prompt both ways, and has to be told by token types what follows it.
        differs: what is not as in the class, and why.
    """

    prompt: prompts.BuildPrompt
    follows: str
    written: str
    placed: str
    longest: int
    stops: StopRule = no_stop_text
    finish: Callable[[str], str] = as_generated
    special_tokens: bool | None = None
    pictures: Mapping[str, Any] = field(default_factory=dict)
    flat: bool = False
    prefix: bool = False
    differs: tuple[str, ...] = ()

    @property
    def model_name(self) -> str:
        """What lmms-eval calls the class on its command line and in `lmms_eval_specific_kwargs` of its tasks."""
        return self.follows.split(".")[1]

    @property
    def by_messages(self) -> bool:
        """Whether the class reads a task's `doc_to_messages` (a chat class) and not its text alone (a simple one)."""
        return self.follows.startswith("chat.")
