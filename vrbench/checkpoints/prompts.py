"""How each family writes a conversation about images as a prompt (no torch).

Where the installed lmms-eval has a model class for a family, the prompt is the one that class builds, so that answers
are comparable with that harness. Texts of tasks mark the position of an image by "<image>", or do not mark it.

A function of this module takes the family's processor, the turns of the conversation, and whether the last one is
answered; if not, the prompt ends where its answer begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vrbench.core.errors import VrbenchError

IMAGE = "<image>"
VICUNA_TEMPLATE = (
    "{% macro said(message) %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{% endmacro %}"
    "{% if messages[0]['role'] != 'system' %}SYSTEMGAP{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ said(message) }}GAP"
    "{% elif message['role'] == 'user' %}USER: {{ said(message) }}GAP"
    "{% else %}ASSISTANT: {{ said(message) }}END{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Images first, each with a line end; SYSTEM, END and GAP stand for the system message, the token that ends an answer,
and what follows the system message and each question.

LLaVA-1.5 and Bunny were trained with it and LLaVA's system message (vicuna_v1, bunny, phi3, llama of their code).
"""

LLAVA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""LLaVA-1.5's system message; used where a tokenizer has no chat template (Liu et al. 2023)."""

SYSTEM = "You are a helpful assistant."
"""lmms-eval's system message for Qwen2.5-VL, Qwen3-VL and Gemma 3."""


@dataclass(frozen=True)
class Turn:
    """A question about some images and its answer.

    Attributes:
        question: text with IMAGE at the position of each image; without any, the images come first.
        answer: the answer.
        n_images: number of images in the question.
    """

    question: str
    answer: str = ""
    n_images: int = 0


BuildPrompt = Callable[[Any, Sequence[Turn], bool], str]
Content = list[dict[str, str]]
"""The parts of a message, as chat templates read them."""


def chat(processor: Any, turns: Sequence[Turn], answered: bool = False) -> str:
    """Apply the processor's chat template, with images at their marks, or in front of a text without marks.

    The same as lmms-eval's `llava_hf` (LLaVA-NeXT, LLaVA-OneVision) and `internvl_hf` in their chat form. SmolVLM and
    Idefics3 have no class there.
    """
    return _apply_template(processor, _messages(turns, answered, _at_marks))


def llava(processor: Any, turns: Sequence[Turn], answered: bool = False) -> str:
    """As `chat`, or Vicuna's conversation where there is no template, as lmms-eval's `llava_hf` has it."""
    if _template(processor) is None:
        return vicuna(processor.tokenizer, turns, answered)
    return chat(processor, turns, answered)


def llava_text(tokenizer: Any, turns: Sequence[Turn], answered: bool = False) -> str:
    """LLaVA: placeholders in front of a text without any, then the tokenizer's chat template or Vicuna's conversation.

    As in lmms-eval's `llava_hf` (models/simple/llava_hf.py), the content of a message is a string. A template that
    loses it, such as llava-hf's, expects parts and is given parts, as by the same class in its chat form.

    Raises:
        VrbenchError: the template can render neither.
    """
    if tokenizer.chat_template is None:
        return vicuna(tokenizer, turns, answered)
    strings, parts = _messages(turns, answered, _with_marks), _messages(turns, answered, _at_marks)
    for message in strings[1::2]:
        message["content"] = message["content"][0]["text"]
    settings = {"chat_template": default_template(tokenizer.chat_template), "add_generation_prompt": not answered}
    rendered, reason = [], ""
    for messages in (strings, parts):
        try:
            rendered.append(str(tokenizer.apply_chat_template(messages, tokenize=False, **settings)))
        except Exception as error:  # templates raise anything over messages that they are not made for
            reason = reason or " ".join(f"{type(error).__name__}: {error}".split())
        if rendered and turns[-1].question.strip() in rendered[-1]:
            return rendered[-1]
    if not rendered:
        raise VrbenchError(f"the checkpoint's chat template cannot render a question ({reason})")
    return rendered[0]


def vicuna(tokenizer: Any, turns: Sequence[Turn], answered: bool = False, separator: str = " ") -> str:
    """Write the conversation that LLaVA-1.5 was trained with (vicuna_v1 of its code)."""
    text = f"{LLAVA_SYSTEM}{separator}"
    for number, turn in enumerate(turns, 1):
        text += f"USER: {_with_marks(turn.question, turn.n_images)}{separator}ASSISTANT:"
        if answered or number < len(turns):
            text += f" {turn.answer}{tokenizer.eos_token}"
    return text


def vicuna_template(end: str, separator: str = " ") -> str:
    """Return the chat template that writes what `vicuna` writes, with the token that ends an answer."""
    parts = {"SYSTEM": LLAVA_SYSTEM, "GAP": separator, "END": end}
    return re.sub("|".join(parts), lambda found: parts[found[0]], VICUNA_TEMPLATE)


def vicuna_separator(tokenizer: Any) -> str | None:
    """Return what follows the system message and each question in a tokenizer's prompts, if `vicuna` writes them.

    It is " " in LLaVA-1.5 and Bunny, "" in Visual-Region's Bunny-Llama-3; None where prompts are written otherwise.

    Raises:
        VrbenchError: as `llava_text`.
    """
    turns = [Turn("What is it?", "A dog.", 1), Turn("Old?", "Yes.")]
    written = llava_text(tokenizer, turns, answered=True)
    return next((one for one in (" ", "") if vicuna(tokenizer, turns, True, one) == written), None)


def qwen(processor: Any, turns: Sequence[Turn], answered: bool = False) -> str:
    """Qwen2.5-VL and Qwen3-VL, as lmms-eval's `qwen2_5_vl` and `qwen3_vl`: images in front, marks removed."""
    system = {"role": "system", "content": SYSTEM}
    return _apply_template(processor, [system, *_messages(turns, answered, _without_marks)])


def gemma(processor: Any, turns: Sequence[Turn], answered: bool = False) -> str:
    """Gemma 3, as lmms-eval's `gemma3`: images in front, marks removed, numbered ones too."""

    def content(text: str, n_images: int) -> Content:
        return _without_marks(re.sub(r"<image \d+>", "", text.replace(IMAGE, "")), n_images)

    system = {"role": "system", "content": [_text(SYSTEM)]}
    return _apply_template(processor, [system, *_messages(turns, answered, content)])


def mllama(processor: Any, turns: Sequence[Turn], answered: bool = False) -> str:
    """Llama 3.2 Vision, as lmms-eval's `llama_vision`: images in front of the unchanged text."""
    return _apply_template(processor, _messages(turns, answered, _in_front))


def mistral(processor: Any, turns: Sequence[Turn], answered: bool = False) -> str:
    """Mistral 3 and Pixtral, as lmms-eval's `mistral3_vl`: [INST] written out; the template if no image comes first.

    The beginning of text occurs twice, written here and added by the tokenizer, as in that class.
    """
    if not turns[0].n_images and _template(processor) is not None:
        return _apply_template(processor, _messages(turns, answered, lambda text, n: _at_marks(text, n) if n else text))
    prompt = "<s>"
    for number, turn in enumerate(turns, 1):
        prompt += f"[INST]{_mistral_images(processor, turn.n_images)}{turn.question}[/INST]"
        if answered or number < len(turns):
            prompt += f"{turn.answer}{processor.tokenizer.eos_token}"
    return prompt


def _mistral_images(processor: Any, n_images: int) -> str:
    if not n_images:
        return ""
    mark = processor.image_token
    return (mark if n_images == 1 else "".join(f"Image {i + 1}: {mark}\n" for i in range(n_images))) + "\n"


def paligemma(processor: Any, turns: Sequence[Turn], answered: bool = False) -> str:
    """PaliGemma, which has neither a template nor a class in lmms-eval: images, text, end of line.

    With images, its processor adds the beginning of text, behind them, and the end of line. Only the last question is
    written, and no answer.
    """
    last = turns[-1]
    return IMAGE * last.n_images + last.question.replace(IMAGE, "") if last.n_images else f"{last.question}\n"


def default_template(templates: str | Mapping[str, str] | None) -> str | None:
    """Return the chat template that is used where a checkpoint has several; None where it has none.

    Raises:
        VrbenchError: there are several and none is called "default", so that transformers cannot choose either.
    """
    if templates is None or isinstance(templates, str):
        return templates or None
    if "default" not in templates:
        named = ", ".join(templates)
        raise VrbenchError(f"the checkpoint has chat templates {named} and none called default, which would be used")
    return templates["default"]


def starts_with_bos(tokenizer: Any, prompt: str) -> bool:
    """Return whether a prompt has its beginning-of-text token already, as chat templates write it."""
    first = tokenizer.bos_token
    return bool(first) and prompt.startswith(first)


def _messages(turns: Sequence[Turn], answered: bool, content: Callable[[str, int], Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages.append({"role": "user", "content": content(turn.question, turn.n_images)})
        messages.append({"role": "assistant", "content": [_text(turn.answer)]})
    return messages if answered else messages[:-1]


def _with_marks(text: str, n_images: int) -> str:
    return f"{' '.join([IMAGE] * n_images)}\n{text}" if n_images and IMAGE not in text else text


def _without_marks(text: str, n_images: int) -> Content:
    return _in_front(text.replace(IMAGE, ""), n_images)


def _in_front(text: str, n_images: int) -> Content:
    return [*({"type": "image"} for _ in range(n_images)), _text(text)]


def _at_marks(text: str, n_images: int) -> Content:
    if IMAGE not in text or not n_images:
        return _in_front(text, n_images)
    pieces = text.split(IMAGE)
    if len(pieces) - 1 != n_images:
        raise VrbenchError(f"a prompt has {len(pieces) - 1} image placeholders ({IMAGE}) for {n_images} images")
    content: Content = []
    for number, piece in enumerate(pieces):
        content += [{"type": "image"}] * (number > 0) + [_text(piece)] * bool(piece)
    return content


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _template(processor: Any) -> str | None:
    return default_template(processor.chat_template or processor.tokenizer.chat_template)


def _apply_template(processor: Any, messages: list[dict[str, Any]]) -> str:
    template = _template(processor)
    if template is None:
        raise VrbenchError("the checkpoint has no chat template, and its family's questions need one")
    is_question = messages[-1]["role"] == "user"
    return str(
        processor.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=is_question
        )
    )
