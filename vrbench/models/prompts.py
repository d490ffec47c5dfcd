"""How each family is asked a question about pictures: (processor, text, number of pictures) -> the whole prompt.

Where the installed lmms-eval has a model class for a family, the prompt is that class's, so that the answers are those
that the reference gives. Texts of tasks show where a picture stands by "<image>", or do not show it at all.
"""

from __future__ import annotations

import re
from typing import Any

from vrbench.errors import VrbenchError

IMAGE = "<image>"
LLAVA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""What LLaVA-1.5 was trained with; the prompt of a tokenizer that has no chat template (Liu et al. 2023)."""

SYSTEM = "You are a helpful assistant."
"""What lmms-eval tells Qwen2.5-VL, Qwen3-VL and Gemma 3 first."""


def chat(processor: Any, text: str, n_images: int) -> str:
    """The processor's chat template, each picture where the text has its mark, or all in front where it has none.

    It is what lmms-eval's `llava_hf` (LLaVA-NeXT, LLaVA-OneVision) and `internvl_hf` build in their chat form from
    pictures and text. SmolVLM and Idefics3 have no class there.
    """
    return _templated(processor, [{"role": "user", "content": _content(text, n_images)}])


def llava(processor: Any, text: str, n_images: int) -> str:
    """As `chat`, and Vicuna's prompt where there is no template, as lmms-eval's `llava_hf` has it."""
    if _template(processor) is not None:
        return chat(processor, text, n_images)
    if n_images and IMAGE not in text:
        text = f"{' '.join([IMAGE] * n_images)}\n{text}"
    return f"{LLAVA_SYSTEM} USER: {text} ASSISTANT:"


def qwen(processor: Any, text: str, n_images: int) -> str:
    """Qwen2.5-VL and Qwen3-VL, as lmms-eval's `qwen2_5_vl` and `qwen3_vl`: pictures in front, marks taken out."""
    content = [*_pictures(n_images), _words(text.replace(IMAGE, ""))]
    return _templated(processor, [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}])


def gemma(processor: Any, text: str, n_images: int) -> str:
    """Gemma 3, as lmms-eval's `gemma3`: pictures in front, marks taken out, numbered ones as well."""
    text = re.sub(r"<image \d+>", "", text.replace(IMAGE, ""))
    system = {"role": "system", "content": [_words(SYSTEM)]}
    return _templated(processor, [system, {"role": "user", "content": [*_pictures(n_images), _words(text)]}])


def mllama(processor: Any, text: str, n_images: int) -> str:
    """Llama 3.2 Vision, as lmms-eval's `llama_vision`: pictures in front of the text as it is."""
    return _templated(processor, [{"role": "user", "content": [*_pictures(n_images), _words(text)]}])


def mistral(processor: Any, text: str, n_images: int) -> str:
    """Mistral 3 and Pixtral, as lmms-eval's `mistral3_vl`: its own frame; the template where there is no picture.

    The beginning of text is there twice, written and put in front by the tokenizer, since that class has it so.
    """
    if not n_images and _template(processor) is not None:
        return _templated(processor, [{"role": "user", "content": text}])
    mark = processor.image_token
    marks = mark if n_images == 1 else "".join(f"Image {i + 1}: {mark}\n" for i in range(n_images))
    return f"<s>[INST]{marks}\n{text}[/INST]" if n_images else f"<s>[INST]{text}[/INST]"


def paligemma(processor: Any, text: str, n_images: int) -> str:
    """PaliGemma, which has neither a template nor a class in lmms-eval: pictures, text, end of line.

    With pictures the beginning of text, behind them, and the end of the line are its processor's to add.
    """
    if not n_images:
        return f"{text}\n"
    return IMAGE * n_images + text.replace(IMAGE, "")


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
    return processor.chat_template or processor.tokenizer.chat_template


def _templated(processor: Any, messages: list[dict[str, Any]]) -> str:
    template = _template(processor)
    if template is None:
        raise VrbenchError("the checkpoint has no chat template, and its family's questions need one")
    return str(
        processor.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
    )
