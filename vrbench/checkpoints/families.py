"""The model families: how each is loaded, prompted and answered (no torch).

One entry of `FAMILIES` holds all of it. To add a family, add an entry; to change how a family is prompted or where its
answers end, change its entry and raise its `version`. Names, tables of docs/families.md, tests and digests follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints import prompts

if TYPE_CHECKING:
    from vrbench.checkpoints.checkpoint import Checkpoint

StopRule = Callable[[Sequence[str]], tuple[str, ...]]
"""`until` of a harness's task -> the stop sequences that are used. Its docstring is its cell in docs/families.md."""


def no_stop_text(until: Sequence[str]) -> tuple[str, ...]:
    """none: the class accepts them but does not use them"""
    return ()


def all_but_blank_lines(until: Sequence[str]) -> tuple[str, ...]:
    """all but a blank line"""
    return tuple(text for text in until if text != "\n\n")


def as_generated(answer: str) -> str:
    """as generated"""
    return answer


def final_answer(answer: str) -> str:
    """parsed by lmms-eval's `parse_reasoning_model_answer`"""
    from lmms_eval.models.model_utils.reasoning_model_utils import parse_reasoning_model_answer

    return str(parse_reasoning_model_answer(answer)).rsplit("</think>", 1)[-1].strip()


@dataclass(frozen=True)
class PromptFormat:
    """How a question becomes a prompt, and a generated text an answer.

    Attributes:
        build: writes a conversation, a function of `vrbench.checkpoints.prompts`. In a family with `prefix_sharing` it
            is given the tokenizer instead of the processor.
        lmms_class: lmms-eval's model class under lmms_eval.models, such as "simple.qwen3_vl.Qwen3_VL".
        description: the prompt in words, for docs/families.md.
        image_placement: position of images in the prompt, for docs/families.md.
        max_new_tokens: longest answer, in tokens, where the task names none; as in the class.
        stop_rule: which texts of the harness's `until` end an answer. Those of a task file's own `generation` always
            do, in every family.
        postprocess: applied to the decoded answer, as the class does it; its docstring is for docs/families.md.
        add_special_tokens: whether the tokenizer adds its own to a prompt with images; None: if the prompt does not
            begin with one.
        image_settings: settings of the image processor that the class overrides.
        flat_images: whether the processor takes the images of all prompts in one list.
        prefix_lm: whether the decoder attends to a prompt in both directions, so that token types have to mark what
            follows it.
        differences: what is not as in the class, and why.
    """

    build: prompts.BuildPrompt
    lmms_class: str
    description: str
    image_placement: str
    max_new_tokens: int
    stop_rule: StopRule = no_stop_text
    postprocess: Callable[[str], str] = as_generated
    add_special_tokens: bool | None = None
    image_settings: Mapping[str, Any] = field(default_factory=dict)
    flat_images: bool = False
    prefix_lm: bool = False
    differences: tuple[str, ...] = ()

    def prompt(self, processor: Any, text: str, n_images: int) -> str:
        """Return the whole prompt of one question about some images.

        Raises:
            VrbenchError: the text has more or fewer image placeholders than there are images.
        """
        return self.build(processor, [prompts.Turn(text, n_images=n_images)], False)

    @property
    def lmms_model_name(self) -> str:
        """The class's name on lmms-eval's command line and in `lmms_eval_specific_kwargs` of its tasks."""
        return self.lmms_class.split(".")[1]

    @property
    def reads_messages(self) -> bool:
        """Whether the class reads a task's `doc_to_messages` (a chat class) and not its text alone (a simple one)."""
        return self.lmms_class.startswith("chat.")


FixedLayers = Callable[[Mapping[str, Any]], dict[int, str]]


def cross_attention_layers(config: Mapping[str, Any]) -> dict[int, str]:
    """Return the cross-attention layers, which cannot be removed."""
    layers = (config.get("text_config") or config).get("cross_attention_layers") or ()
    return {i: "it is a cross-attention layer, through which the model sees" for i in layers}


def deepstack_layers(config: Mapping[str, Any]) -> dict[int, str]:
    """Return the layers behind which vision features are added, which cannot be removed."""
    features = (config.get("vision_config") or {}).get("deepstack_visual_indexes") or ()
    return {i: "vision features are added behind it" for i in range(len(features))}


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        prompt_format: how it is prompted, and where its answers end.
        version: raised by one whenever a change of prompt, stop rule, image settings, loading or answering changes
            some answer (see `checkpoints.code_versions`); older answers and runs are then not reused.
        prefix_sharing: whether prompts share rows with others that begin alike (`LlavaModel`), where the decoder
            allows it; else each prompt has its own row (`HFModel`).
        projector: canonical names of the modules from vision features to the decoder's width.
        fixed_layers: config -> decoder layer -> why it may not be removed.
        processor_class: "module:name" of its processor where the one that transformers names does not work.
        image_processor_class: of its PIL image processor if transformers 5.17 hides it without torchvision.
        replaces_image_token: the image token needs no row in the embedding, since transformers replaces it before.
        vllm: whether vLLM can answer for it (`--backend vllm`): it has the family, reads a prompt's tokens with one
            placeholder for each image, and prepares images by the same settings.
    """

    prompt_format: PromptFormat
    version: int = 2
    prefix_sharing: bool = False
    projector: tuple[str, ...] = ("multi_modal_projector",)
    fixed_layers: FixedLayers | None = None
    processor_class: str = ""
    image_processor_class: str = ""
    replaces_image_token: bool = False
    vllm: bool = False


ENDS = (
    "an answer also ends at the end tokens of the generation config, not only at the tokenizer's: text after such a "
    "token is not part of an answer"
)
IN_FRONT = "in front; image placeholders in the text are removed"

GENERIC = PromptFormat(
    prompts.chat, "chat.huggingface.Huggingface", max_new_tokens=4096,
    description="the chat template",
    image_placement="where the text or the task's messages have them, else in front",
    differences=(ENDS, "the class itself fails with transformers 5, which rejects its audio settings; the comparison "
                       "leaves them out"),
)  # fmt: skip
"""Of families without a class of their own in lmms-eval: as its class for any model of transformers."""

LLAVA_HF = replace(
    GENERIC, build=prompts.llava, lmms_class="chat.llava_hf.LlavaHf", max_new_tokens=1024, add_special_tokens=True,
    description="the chat template, else Vicuna's conversation", differences=(ENDS,),
)  # fmt: skip
QWEN = PromptFormat(
    prompts.qwen, "simple.qwen3_vl.Qwen3_VL", max_new_tokens=128, stop_rule=all_but_blank_lines,
    description=f'the chat template, after the system message "{prompts.SYSTEM}"', image_placement=IN_FRONT,
    image_settings={"size": {"shortest_edge": 256 * 28 * 28, "longest_edge": 1605632}}, differences=(ENDS,),
)  # fmt: skip
PNG = "images are not converted to JPEG (quality 85) first, since the pixels would then depend on the version of Pillow"

FAMILIES: dict[str, Family] = {
    "llava": Family(PromptFormat(
        prompts.llava_text, "simple.llava_hf.LlavaHf", max_new_tokens=1024,
        description="the tokenizer's chat template, else the processor's, else Vicuna's conversation",
        image_placement="where the text has image placeholders, else in front, separated by spaces, and a new line",
        differences=(
            ENDS,
            "a chat template that is only in the processor's settings is used, as in the chat variant of the class; "
            "the simple class does not read it",
            "a template that requires messages in parts is given parts; with the class, the question would be lost",
        ),
    ), prefix_sharing=True, vllm=True),
    "llava_next": Family(LLAVA_HF, vllm=True),
    "llava_onevision": Family(replace(LLAVA_HF, flat_images=True), vllm=True),
    "qwen2_5_vl": Family(replace(
        QWEN, lmms_class="simple.qwen2_5_vl.Qwen2_5_VL", max_new_tokens=32768, differences=(ENDS, PNG),
    ), projector=("visual.merger",), vllm=True),
    "qwen3_vl": Family(
        QWEN, projector=("visual.merger", "visual.deepstack_merger_list"), fixed_layers=deepstack_layers, vllm=True,
    ),
    "smolvlm": Family(
        GENERIC, projector=("connector",),
        processor_class="transformers:Idefics3Processor",  # its own differs in videos alone, and needs num2words
        image_processor_class="transformers.models.smolvlm.image_processing_pil_smolvlm:SmolVLMImageProcessorPil",
    ),
    "idefics3": Family(
        GENERIC, projector=("connector",),
        image_processor_class="transformers.models.idefics3.image_processing_pil_idefics3:Idefics3ImageProcessorPil",
    ),
    "internvl": Family(replace(
        GENERIC, lmms_class="chat.internvl_hf.InternVLHf", max_new_tokens=1024,
        image_settings={"min_patches": 1, "max_patches": 12}, differences=(ENDS,),
    )),
    "gemma3": Family(replace(
        QWEN, build=prompts.gemma, lmms_class="simple.gemma3.Gemma3", image_settings={}, differences=(PNG,),
        image_placement="in front; image placeholders in the text, also numbered ones, are removed",
    ), replaces_image_token=True),
    "paligemma": Family(replace(
        GENERIC, build=prompts.paligemma, prefix_lm=True,
        description="images, text, new line (the family has no chat template)", image_placement=IN_FRONT,
        differences=("the class cannot prompt it, since it has no chat template; stop sequences and lengths are the "
                     "class's",),
    ), replaces_image_token=True),
    "mistral3": Family(PromptFormat(
        prompts.mistral, "simple.mistral3_vl.Mistral3_VL", max_new_tokens=512, postprocess=final_answer,
        add_special_tokens=True,
        description="[INST] images, a new line, the text [/INST]; without images, the chat template",
        image_placement='in front; several as "Image 1: ...", each on a line',
        differences=(
            "decoding is greedy, as in every other family; the class samples at a temperature of 0.6 if a task sets "
            "none; the class's repetition penalty of 1.2 is not used, since the checkpoint does not set it and it "
            "makes the question's words less likely",
        ),
    ), processor_class="vrbench.models.pixtral:PixtralProcessor"),  # transformers' own needs torchvision
    "mllama": Family(PromptFormat(
        prompts.mllama, "simple.llama_vision.LlamaVision", max_new_tokens=1024, add_special_tokens=False,
        description="the chat template", image_placement="in front of the unchanged text",
    ), fixed_layers=cross_attention_layers),
}  # fmt: skip
"""`model_type` of config.json -> family."""

UNSUPPORTED: dict[str, str] = {
    "qwen3_vl_moe": "its layers choose among experts (MoE), so that a layer is not one thing to tune or remove",
    "gemma3n": "its decoder layers share keys and values, so that none can be removed without others",
}
"""Model types that are known and cannot be loaded, and why."""

REMOTE_CODE = Family(GENERIC)
"""Models made by code in their folder, where the user allowed it to run."""


def family_of(checkpoint: Checkpoint) -> Family:
    """Return the family of a valid checkpoint."""
    return REMOTE_CODE if checkpoint.root.code else FAMILIES[checkpoint.family]


TOWER_MODULES = ("vision_tower", "vision_model", "visual")
"""First part of the canonical names of a vision tower's parameters."""


def projector_names(family: str, names: Iterable[str]) -> frozenset[str]:
    """Return those canonical parameter names that belong to a family's projector."""
    modules = tuple(f"{module}." for module in FAMILIES[family].projector)
    return frozenset(name for name in names if name.startswith(modules))


def tower_names(family: str, names: Iterable[str]) -> frozenset[str]:
    """Return those canonical parameter names that belong to a family's vision tower, without a projector inside it."""
    inside = {name for name in names if name.partition(".")[0] in TOWER_MODULES}
    return frozenset(inside) - projector_names(family, inside)


def projector_prefix(family: str) -> str:
    """Return what all canonical names of the projector's parameters begin with, such as "multi_modal_projector."."""
    modules = FAMILIES[family].projector
    return f"{modules[0]}." if len(modules) == 1 else f"{modules[0].rpartition('.')[0]}."


def fixed_layers(config: Mapping[str, Any]) -> dict[int, str]:
    """Return layer -> why it may not be removed from a model of this config.

    Args:
        config: of the complete model, as config.json or `PreTrainedConfig.to_dict` has it.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    return family.fixed_layers(config) if family and family.fixed_layers else {}
