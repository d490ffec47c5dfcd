"""What decides an answer besides the request itself: libraries, device, compute type, image settings, our own code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.core.io import digest_of
from vrbench.core.provenance import ADAPTER_PACKAGES, ANSWER_PACKAGES, package_versions
from vrbench.core.versions import COMPONENTS

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM


@dataclass(frozen=True)
class AnswerConditions:
    """sha256 over what decides the answers to requests of a kind.

    Attributes:
        loglikelihood: of log-likelihoods.
        text: of texts generated without an image.
        images: of texts generated from images.
    """

    loglikelihood: str
    text: str
    images: str


# Not here, since it is in the request by content: prompt and token ids (so the harnesses, a family's prompts, chat
# templates, few-shot examples and what was cut from token ids), stop texts and length (so a family's stop rule), and
# the pixels of each image as it was opened. Not here, since the checkpoint's digest has it: weights, tokenizer,
# generation config, and the image settings in its folder. Image settings are here nevertheless, since our own code
# may override those of the folder. The family's version is here although prompt and stop texts are in the request: it
# stands for what a family's code does besides, such as how it is loaded.
def conditions_of(vlm: BaseVLM) -> AnswerConditions:
    """What a loaded model's answers depend on, as it is now."""
    code, adapter = dict(vlm.code), (ADAPTER_PACKAGES if vlm.has_adapter else ())
    always = {"dtype": str(vlm.dtype), "device": vlm.device.type}

    def digest(kind: str, *components: str, **more: Any) -> str:
        versions = {**code, **{name: COMPONENTS[name] for name in components}}
        found = {**always, "packages": package_versions((*ANSWER_PACKAGES[kind], *adapter)), "code": versions, **more}
        return digest_of(json.loads(json.dumps(found, default=str)))

    return AnswerConditions(
        loglikelihood=digest("loglikelihood", "loglikelihood"),
        text=digest("text", "decoding", "context"),
        images=digest("images", "decoding", "context", "images", settings=vlm.image_settings),
    )
