"""Processors of today's families, put together from their parts without torchvision.

transformers' `AutoProcessor` needs torchvision for several families, though no video is ever shown here and the PIL
image processors, which all machines have, do without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from vrbench.checkpoints.remote_code import LOCAL

CLASSES = {
    "smolvlm": "transformers:Idefics3Processor",  # SmolVLM's own differs in videos alone, and wants num2words for them
    "mistral3": "vrbench.models.pixtral:PixtralProcessor",  # transformers' own cannot be imported without torchvision
}
"""Model type -> processor class where it is not the one that transformers names."""


PIL_CLASSES = {
    "smolvlm": "transformers.models.smolvlm.image_processing_pil_smolvlm:SmolVLMImageProcessorPil",
    "idefics3": "transformers.models.idefics3.image_processing_pil_idefics3:Idefics3ImageProcessorPil",
}
"""Model type -> PIL image processor that transformers 5.17 withholds without torchvision, though it needs none."""


def load_processor(folder: Path, model_type: str) -> Any:
    """The processor of a folder, with a PIL image processor and no video processor.

    Args:
        folder: Hugging Face layout.
        model_type: as config.json says it.

    Raises:
        OSError, ValueError: the folder lacks the settings of a part.
    """
    return build_processor(_class(model_type), folder, lambda: load_image_processor(folder, model_type), LOCAL)


def build_processor(kind: Any, folder: Path, image_processor: Callable[[], Any], how: Mapping[str, Any]) -> Any:
    """A processor of a class with the parts that a folder holds; arguments and errors are those of `load_processor`.

    Args:
        kind: transformers' class.
        folder: Hugging Face layout.
        image_processor: gives that part.
        how: what transformers' reader of the tokenizer is told, such as `own_code.LOCAL`.
    """
    from transformers import AutoTokenizer

    kind = _pictures_only(kind)
    parts = {
        "image_processor": image_processor,
        "tokenizer": lambda: AutoTokenizer.from_pretrained(folder, **how),
        "video_processor": lambda: None,
    }
    settings, _ = kind.get_processor_dict(folder, local_files_only=True)
    return kind.from_args_and_dict([parts[name]() for name in kind.get_attributes()], settings)


def load_image_processor(folder: Path, model_type: str) -> Any:
    """The PIL image processor of a folder.

    Raises:
        OSError, ValueError: the folder lacks its settings.
    """
    # From its own module: transformers 5.17 withholds the name without torchvision, even for the PIL processors.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    if model_type in PIL_CLASSES:
        return _named(PIL_CLASSES[model_type]).from_pretrained(folder, local_files_only=True)
    return AutoImageProcessor.from_pretrained(folder, backend="pil", **LOCAL)


def processor_template(folder: Path) -> Any:
    """The chat template, or templates by name, among the processor's settings; none where there is none.

    It lies in chat_template.jinja, which tokenizers read too, in chat_template.json or processor_config.json, which
    they do not, and in additional_chat_templates.
    """
    from transformers import LlavaProcessor

    settings, _ = LlavaProcessor.get_processor_dict(folder, local_files_only=True)
    return settings.get("chat_template")


def _class(model_type: str) -> Any:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    return _named(CLASSES.get(model_type) or f"transformers:{PROCESSOR_MAPPING_NAMES[model_type]}")


def _named(place: str) -> Any:
    """The class of "module:name"."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _pictures_only(kind: Any) -> Any:
    """The processor class, content without a video processor."""

    class PicturesOnly(kind):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return argument and super().check_argument_for_proper_class(argument_name, argument)

        def __reduce__(self) -> Any:
            return _without_videos, (kind, self.__dict__)

    PicturesOnly.__name__ = kind.__name__
    return PicturesOnly


def _without_videos(kind: Any, state: dict[str, Any]) -> Any:
    """A processor that was sent from another process."""
    made = _pictures_only(kind)
    processor = made.__new__(made)
    processor.__dict__.update(state)
    return processor
