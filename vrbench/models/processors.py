"""Processors of today's families, put together from their parts without torchvision.

transformers' `AutoProcessor` needs torchvision for several families, though no video is ever shown here and the PIL
image processors, which all machines have, do without.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

CLASSES = {
    "smolvlm": "Idefics3Processor",  # SmolVLM's own differs in videos alone, and wants num2words for them
    "mistral3": "vrbench.models.pixtral:PixtralProcessor",  # transformers' own cannot be imported without torchvision
}
"""Model type -> processor class where it is not the one that transformers names."""


def load_processor(folder: Path, model_type: str) -> Any:
    """The processor of a folder, with a PIL image processor and no video processor.

    Args:
        folder: Hugging Face layout.
        model_type: as config.json says it.

    Raises:
        OSError, ValueError: the folder lacks the settings of a part.
    """
    from transformers import AutoTokenizer

    # From its own module: transformers 5.17 withholds the name without torchvision, even for the PIL processors.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    kind = _pictures_only(_class(model_type))
    local: dict[str, Any] = {"local_files_only": True}
    parts = {
        "image_processor": lambda: AutoImageProcessor.from_pretrained(folder, backend="pil", **local),
        "tokenizer": lambda: AutoTokenizer.from_pretrained(folder, **local),
        "video_processor": lambda: None,
    }
    settings, _ = kind.get_processor_dict(folder, **local)
    return kind.from_args_and_dict([parts[name]() for name in kind.get_attributes()], settings)


def _class(model_type: str) -> Any:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    module, _, name = CLASSES.get(model_type, PROCESSOR_MAPPING_NAMES[model_type]).rpartition(":")
    return getattr(import_module(module or "transformers"), name)


def _pictures_only(kind: Any) -> Any:
    """The processor class, content without a video processor."""

    class PicturesOnly(kind):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return argument and super().check_argument_for_proper_class(argument_name, argument)

    PicturesOnly.__name__ = kind.__name__
    return PicturesOnly
