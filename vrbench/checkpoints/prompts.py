"""How each family is asked a question about pictures: (processor, text, number of pictures) -> the whole prompt.

Where the installed lmms-eval has a model class for a family, the prompt is that class's, so that the answers are those
that the reference gives. Texts of tasks show where a picture stands by "<image>", or do not show it at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vrbench.core.errors import VrbenchError

IMAGE = "<image>"
LLAVA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""What LLaVA-1.5 was trained with; the prompt of a tokenizer that has no chat template (Liu et al. 2023)."""

SYSTEM = "You are a helpful assistant."
"""What lmms-eval tells Qwen2.5-VL, Qwen3-VL and Gemma 3 first."""


@dataclass(frozen=True)
class Turn:
    """A question about some pictures and its answer.

    Attributes:
        question: says by IMAGE where each picture stands; without one, the pictures stand in front.
        answer: what is said to it.
        pictures: how many pictures it brings.
    """

    question: str
    answer: str = ""
    pictures: int = 0


class BuildPrompt(Protocol):
    """How a family writes a conversation.

    Args:
        processor: of the family.
        text: the last question.
        n_images: its pictures.
        before: the turns before it.
        answer: its answer; without one the text ends where the answer has to begin.
    """

    def __call__(
        self, processor: Any, text: str, n_images: int, before: Sequence[Turn] = (), answer: str | None = None
    ) -> str: ...


def chat(processor: Any, text: str, n_images: int, before: Sequence[Turn] = (), answer: str | None = None) -> str:
    """The processor's chat template, each picture where the text has its mark, or all in front where it has none.

    It is what lmms-eval's `llava_hf` (LLaVA-NeXT, LLaVA-OneVision) and `internvl_hf` build in their chat form from
    pictures and text. SmolVLM and Idefics3 have no class there.
    """
    return _templated(processor, _messages([*before, Turn(text, "", n_images)], answer, _content))


def llava(processor: Any, text: str, n_images: int, before: Sequence[Turn] = (), answer: str | None = None) -> str:
    """As `chat`, and Vicuna's prompt where there is no template, as lmms-eval's `llava_hf` has it."""
    if _template(processor) is not None:
        return chat(processor, text, n_images, before, answer)
    return vicuna([*before, Turn(text, "", n_images)], answer, processor.tokenizer)


def llava_text(processor: Any, text: str, n_images: int, before: Sequence[Turn] = (), answer: str | None = None) -> str:
    """LLaVA: image marks in front where the text has none, then the tokenizer's chat template, or Vicuna's prompt.

    As lmms-eval's `llava_hf` (models/simple/llava_hf.py), messages are texts. A template that loses them, as that of
    llava-hf does, is made for messages in parts and given these, as by the same class in its chat form. The tokenizer
    stands in the processor's place.
    """
    tokenizer, turns = processor, [*before, Turn(text, "", n_images)]
    if tokenizer.chat_template is None:
        return vicuna(turns, answer, tokenizer)
    texts, parts = _messages(turns, answer, _marked), _messages(turns, answer, _content)
    for message in texts[1::2]:
        message["content"] = message["content"][0]["text"]
    settings = {"chat_template": default_template(tokenizer.chat_template), "add_generation_prompt": answer is None}
    written, fault = [], ""
    for messages in (texts, parts):
        try:
            written.append(str(tokenizer.apply_chat_template(messages, tokenize=False, **settings)))
        except Exception as error:  # whatever a template raises over messages that it is not made for
            fault = fault or " ".join(f"{type(error).__name__}: {error}".split())
        if written and text.strip() in written[-1]:
            return written[-1]
    if not written:
        raise VrbenchError(f"the checkpoint's chat template cannot write a question ({fault})")
    return written[0]


def vicuna(turns: Sequence[Turn], answer: str | None, tokenizer: Any) -> str:
    """The conversation that LLaVA-1.5 was trained with (vicuna_v1 of its code)."""
    said = [turn.answer for turn in turns[:-1]] + ([] if answer is None else [answer])
    text = f"{LLAVA_SYSTEM} "
    for number, turn in enumerate(turns):
        text += f"USER: {_marked(turn.question, turn.pictures)} ASSISTANT:"
        text += f" {said[number]}{tokenizer.eos_token}" if number < len(said) else ""
    return text


def qwen(processor: Any, text: str, n_images: int, before: Sequence[Turn] = (), answer: str | None = None) -> str:
    """Qwen2.5-VL and Qwen3-VL, as lmms-eval's `qwen2_5_vl` and `qwen3_vl`: pictures in front, marks taken out."""
    messages = _messages([*before, Turn(text, "", n_images)], answer, _unmarked)
    return _templated(processor, [{"role": "system", "content": SYSTEM}, *messages])


def gemma(processor: Any, text: str, n_images: int, before: Sequence[Turn] = (), answer: str | None = None) -> str:
    """Gemma 3, as lmms-eval's `gemma3`: pictures in front, marks taken out, numbered ones as well."""

    def content(text: str, n_images: int) -> list[dict[str, str]]:
        return _unmarked(re.sub(r"<image \d+>", "", text.replace(IMAGE, "")), n_images)

    system = {"role": "system", "content": [_words(SYSTEM)]}
    return _templated(processor, [system, *_messages([*before, Turn(text, "", n_images)], answer, content)])


def mllama(processor: Any, text: str, n_images: int, before: Sequence[Turn] = (), answer: str | None = None) -> str:
    """Llama 3.2 Vision, as lmms-eval's `llama_vision`: pictures in front of the text as it is."""
    return _templated(processor, _messages([*before, Turn(text, "", n_images)], answer, _in_front))


def mistral(processor: Any, text: str, n_images: int, before: Sequence[Turn] = (), answer: str | None = None) -> str:
    """Mistral 3 and Pixtral, as lmms-eval's `mistral3_vl`: its own frame; the template where no picture comes first.

    The beginning of text is there twice, written and put in front by the tokenizer, since that class has it so.
    """
    turns = [*before, Turn(text, "", n_images)]
    if not turns[0].pictures and _template(processor) is not None:
        return _templated(processor, _messages(turns, answer, lambda text, n: _content(text, n) if n else text))
    asked = [f"[INST]{_mistral_marks(processor, turn.pictures)}{turn.question}[/INST]" for turn in turns]
    said = [turn.answer for turn in turns[:-1]] + ([] if answer is None else [answer])
    closed = "".join(f"{q}{a}{processor.tokenizer.eos_token}" for q, a in zip(asked, said, strict=False))
    return f"<s>{closed}" + (asked[-1] if answer is None else "")


def _mistral_marks(processor: Any, pictures: int) -> str:
    if not pictures:
        return ""
    mark = processor.image_token
    return (mark if pictures == 1 else "".join(f"Image {i + 1}: {mark}\n" for i in range(pictures))) + "\n"


def paligemma(processor: Any, text: str, n_images: int, before: Sequence[Turn] = (), answer: str | None = None) -> str:
    """PaliGemma, which has neither a template nor a class in lmms-eval: pictures, text, end of line.

    With pictures the beginning of text, behind them, and the end of the line are its processor's to add. It knows one
    question at a time, and its answer is no part of this text.
    """
    if not n_images:
        return f"{text}\n"
    return IMAGE * n_images + text.replace(IMAGE, "")


def _messages(turns: Sequence[Turn], answer: str | None, content: Callable[[str, int], Any]) -> list[dict[str, Any]]:
    """Turns as chat templates read them; the last is answered if an answer is given."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages.append({"role": "user", "content": content(turn.question, turn.pictures)})
        messages.append({"role": "assistant", "content": [_words(turn.answer)]})
    messages[-1]["content"] = [_words(answer or "")]
    return messages[:-1] if answer is None else messages


def _marked(text: str, n_images: int) -> str:
    """The text with a mark for each picture: in front where it has none."""
    return f"{' '.join([IMAGE] * n_images)}\n{text}" if n_images and IMAGE not in text else text


def _unmarked(text: str, n_images: int) -> list[dict[str, str]]:
    """Pictures in front of the text, whose marks are taken out."""
    return _in_front(text.replace(IMAGE, ""), n_images)


def _in_front(text: str, n_images: int) -> list[dict[str, str]]:
    return [*_pictures(n_images), _words(text)]


def _content(text: str, n_images: int) -> list[dict[str, str]]:
    """Text and pictures in their order."""
    if IMAGE not in text or not n_images:
        return [*_pictures(n_images), _words(text)]
    pieces = text.split(IMAGE)
    if len(pieces) - 1 != n_images:
        raise VrbenchError(f"a prompt has {len(pieces) - 1} image marks ({IMAGE}) for {n_images} pictures")
    content: list[dict[str, str]] = []
    for number, piece in enumerate(pieces):
        content += [*_pictures(number > 0), *([_words(piece)] if piece else [])]
    return content


def _pictures(number: int) -> list[dict[str, str]]:
    return [{"type": "image"} for _ in range(number)]


def _words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _template(processor: Any) -> str | None:
    """The processor's chat template, or its tokenizer's."""
    return default_template(processor.chat_template or processor.tokenizer.chat_template)


def default_template(templates: str | Mapping[str, str] | None) -> str | None:
    """The chat template that is used where a checkpoint has several; none where it has none.

    Raises:
        VrbenchError: there are several, none of them called "default", so that transformers cannot choose either.
    """
    if templates is None or isinstance(templates, str):
        return templates or None
    if "default" not in templates:
        named = ", ".join(templates)
        raise VrbenchError(f"the checkpoint has chat templates {named} and none called default, which would be used")
    return templates["default"]


def _templated(processor: Any, messages: list[dict[str, Any]]) -> str:
    template = _template(processor)
    if template is None:
        raise VrbenchError("the checkpoint has no chat template, and its family's questions need one")
    asked = messages[-1]["role"] == "user"
    return str(
        processor.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=asked)
    )
