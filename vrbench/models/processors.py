"""Processors of the families, built from their parts without torchvision, and prompts with images as model inputs.

transformers' `AutoProcessor` needs torchvision for several families, though no video is shown here and the PIL image
processors, which work on all machines, do without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.families import FAMILIES, PromptFormat
from vrbench.checkpoints.prompts import starts_with_bos
from vrbench.checkpoints.remote_code import LOCAL_ONLY
from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

NOT_INPUTS = ("labels", "num_crops")
"""Keys that processors return in addition to a model's inputs."""


def allow_threads(tokenizer: Any) -> None:
    """Serialize the calls of a tokenizer, which change its padding and truncation, so that threads may share it."""
    if hasattr(tokenizer, "serializes_calls"):  # another checkpoint shares it
        return
    lock, kind = threading.Lock(), type(tokenizer)

    def call(self: Any, *args: Any, **settings: Any) -> Any:
        with lock:
            return kind.__call__(self, *args, **settings)

    def reduce(self: Any) -> Any:  # it is copied and sent to other processes as what it was
        plain: Any = object.__new__(kind)
        vars(plain).update(vars(self))
        return _given, (plain,)

    tokenizer.__class__ = type(
        kind.__name__, (kind,), {"__call__": call, "__reduce__": reduce, "serializes_calls": True}
    )


def _given(tokenizer: Any) -> Any:
    return tokenizer


class UnsupportedImageError(VrbenchError):
    """The family's image processor cannot take images of these sizes; it can take every other image."""


def load_processor(folder: Path, model_type: str, config: Any = None) -> Any:
    """Load the processor of a folder, with a PIL image processor and no video processor.

    Args:
        config: the model's, where it has been read already.

    Raises:
        OSError, ValueError: the folder lacks the settings of a part.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = FAMILIES[model_type].processor_class or f"transformers:{PROCESSOR_MAPPING_NAMES[model_type]}"
    options = {**LOCAL_ONLY, "config": config}
    return build_processor(_import(name), folder, lambda: load_image_processor(folder, model_type), options)


def build_processor(
    processor_class: Any, folder: Path, load_images: Callable[[], Any], tokenizer_options: Mapping[str, Any]
) -> Any:
    """Build a processor from the parts in a folder; errors are those of `load_processor`.

    Args:
        processor_class: transformers' class.
        folder: Hugging Face layout.
        load_images: loads the image processor.
        tokenizer_options: arguments of transformers' reader of the tokenizer, such as `remote_code.LOCAL`.
    """
    from transformers import AutoTokenizer

    made = _without_videos(processor_class)
    parts = {
        "image_processor": load_images,
        "tokenizer": lambda: AutoTokenizer.from_pretrained(folder, **tokenizer_options),
        "video_processor": lambda: None,
    }
    settings, _ = made.get_processor_dict(folder, local_files_only=True)
    return made.from_args_and_dict([parts[name]() for name in made.get_attributes()], settings)


def load_image_processor(folder: Path, model_type: str) -> Any:
    """Load the PIL image processor of a folder.

    Raises:
        OSError, ValueError: the folder lacks its settings.
    """
    # From its own module: transformers 5.17 hides the name without torchvision, even for the PIL processors.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    if FAMILIES[model_type].image_processor_class:
        return _import(FAMILIES[model_type].image_processor_class).from_pretrained(folder, local_files_only=True)
    return AutoImageProcessor.from_pretrained(folder, backend="pil", **LOCAL_ONLY)


def padding_image_processor(image_processor: Any) -> Any:
    """Return the same image processor with padding to a square in the mean colour (LLaVA-1.5's `expand2square`)."""
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    settings = {name: value for name, value in image_processor.to_dict().items() if not name.startswith("_")}
    settings.pop("image_processor_type", None)
    return LlavaImageProcessorPil(**{**settings, "do_pad": True})


def processor_template(folder: Path) -> Any:
    """Return the chat template, or templates by name, among the processor's settings; None if there is none.

    It is in chat_template.jinja, which tokenizers read too, in chat_template.json or processor_config.json, which they
    do not, and in additional_chat_templates.
    """
    from transformers import LlavaProcessor

    settings, _ = LlavaProcessor.get_processor_dict(folder, local_files_only=True)
    return settings.get("chat_template")


def encode_with_images(
    processor: Any, prompt_format: PromptFormat, prompts: Sequence[str], images: Sequence[Sequence[Image]], family: str,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the model's inputs for prompts with images, padded on the left: token ids [prompts, longest] and pixels.

    Args:
        prompts: whole ones; all begin with the tokenizer's beginning of text, or none.
        images: of each prompt.
        family: for error messages.

    Raises:
        UnsupportedImageError: the image processor takes no images of these sizes.
        VrbenchError: a prompt does not have a mark for each of its images.
    """
    rgb: list[Any] = [[image.convert("RGB") for image in of_prompt] for of_prompt in images]
    try:
        inputs = processor(
            text=list(prompts),
            images=[image for of_prompt in rgb for image in of_prompt] if prompt_format.flat_images else rgb,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            add_special_tokens=adds_special_tokens(processor, prompt_format, prompts[0]),
            images_kwargs=dict(prompt_format.image_settings),
        )
    except (ValueError, ArithmeticError) as error:
        _check_images(processor.image_processor, prompt_format, rgb, family)
        raise VrbenchError(f"the processor of {family} refuses a prompt: {error}") from error
    return {name: value for name, value in inputs.items() if name not in NOT_INPUTS}


def adds_special_tokens(processor: Any, prompt_format: PromptFormat, prompt: str) -> bool:
    """Return whether the tokenizer adds its own special tokens to a prompt with images."""
    special = prompt_format.add_special_tokens
    return not starts_with_bos(processor.tokenizer, prompt) if special is None else special


def _check_images(
    image_processor: Any, prompt_format: PromptFormat, images: Sequence[Sequence[Image]], family: str
) -> None:
    """Raise `UnsupportedImageError` if the image processor alone refuses an image, whatever the prompt.

    Each limit is transformers' own: Qwen's image processors refuse an aspect ratio above 200, Pixtral's one that leaves
    no pixel of the shorter side when the longer is scaled to the longest allowed.
    """
    for image in (image for of_prompt in images for image in of_prompt):
        try:
            image_processor(images=[image], return_tensors="pt", **prompt_format.image_settings)
        except (ValueError, ArithmeticError) as error:
            size, reason = f"{image.width} x {image.height}", " ".join(str(error).split())
            message = f"the image processor of {family} refuses an image of {size}: {reason}"
            raise UnsupportedImageError(message) from error


def _import(name: str) -> Any:
    """Return the class of "module:name"."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _without_videos(processor_class: Any) -> Any:
    """Return the processor class, which accepts that there is no video processor."""

    class WithoutVideos(processor_class):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return argument and super().check_argument_for_proper_class(argument_name, argument)

        def __reduce__(self) -> Any:
            return _unpickle, (processor_class, self.__dict__)

    WithoutVideos.__name__ = processor_class.__name__
    return WithoutVideos


def _unpickle(processor_class: Any, state: dict[str, Any]) -> Any:
    made = _without_videos(processor_class)
    processor = made.__new__(made)
    processor.__dict__.update(state)
    return processor
