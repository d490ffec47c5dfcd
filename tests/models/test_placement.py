"""A model spread over devices gives the answers of one device; no operation mixes the devices."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate.hooks
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import forked
from tests.tiny import SIDE, llava, save_adapter, save_llava, tokenizer
from vrbench.evaluation.backends import loaded_vlm
from vrbench.evaluation.run_config import RunConfig
from vrbench.models import attention, decoding, generation, packed_inference, packing, placement, prompt_reading
from vrbench.models.decoding import StopCriteria
from vrbench.models.generation import AnswerGenerator
from vrbench.models.llava_model import LlavaModel
from vrbench.models.memory_budget import GPU_TOKENS, MemoryBudget
from vrbench.models.packed_inference import LogLikelihoods, copies_no_prefix
from vrbench.models.packing import pack_with_prefixes
from vrbench.models.prefix_attention import USES_SEGMENTS
from vrbench.models.prompt_reading import PackedPrompts
from vrbench.models.resolve import resolve_checkpoint

PARTS = ["model.vision_tower", "model.multi_modal_projector", "model.language_model.embed_tokens"]
PARTS += [f"model.language_model.layers.{i}" for i in range(4)]
PARTS += ["model.language_model.norm", "model.language_model.rotary_emb", "lm_head"]


def wrapped(model: Any) -> LlavaModel:
    from transformers import SiglipImageProcessorPil

    return LlavaModel(model, tokenizer(), SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}))


def with_fused_norms() -> Any:
    """A model whose norms have the forward pass that they have on a GPU."""
    model = llava()
    for module in model.modules():
        if type(module).__name__ in attention.RMS_NORMS:
            module.forward = attention._FusedNorm(module)
    return model


def outcomes(vlm: LlavaModel) -> tuple[dict[int, tuple[float, bool]], dict[int, str], torch.Tensor]:
    """Log-likelihoods and answers behind shared beginnings, and the features of images."""
    beginning = "Once upon a time there was a king who had"
    sequences = [vlm.encode(beginning + end) for end in (" a dog", " a cat", " no")] + [vlm.encode("Why?")]
    rows = pack_with_prefixes(sequences, [1] * 4)
    assert any(row.prefix for row in rows) and len(rows) > 1
    likely = LogLikelihoods(vlm, rows, {n: [65 + n] for n in range(4)}).result()
    stops = {n: StopCriteria(3 + 2 * n) for n in range(4)}
    answers = AnswerGenerator(vlm, PackedPrompts(vlm, rows), stops, MemoryBudget(2, 64, 900))
    found = {number: text for done in answers for number, text in done.items()}
    return likely, found, vlm.project(vlm.encode_pixels([torch.ones(3, SIDE, SIDE)] * 2))


@pytest.fixture(autouse=True)
def short_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MIN_PREFIX", 4)
    monkeypatch.setattr(packing, "PREFIXED_ROW_TOKENS", 24)


def test_weights_that_wait_elsewhere_give_the_same_answers(tmp_path: Path) -> None:
    """On a CPU they wait on the disk, with the hooks that fetch them from its memory to a GPU."""
    waiting = {"model.vision_tower", "model.language_model.layers.1", "model.language_model.norm", "lm_head"}
    devices = {part: "disk" if part in waiting else "cpu" for part in PARTS}
    model = with_fused_norms()
    setattr(model.model.language_model, USES_SEGMENTS, True)
    model = placement.dispatch(model, devices, "cpu", offload_dir=str(tmp_path))
    assert next(model.model.language_model.layers[1].parameters()).device.type == "meta"
    vlm, alone = wrapped(model), outcomes(wrapped(with_fused_norms()))
    assert not copies_no_prefix(vlm)
    assert vlm.device == torch.device("cpu")
    likely, found, features = outcomes(vlm)
    assert (likely, found) == alone[:2] and torch.equal(features, alone[2])
    assert vlm.device_name.endswith("layers spread over 1 device, 1 of 4 waiting in the CPU's memory")
    assert placement.waiting_bytes(model) == sum(p.nbytes for p in llava().model.language_model.layers[1].parameters())


class SameDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, also those that only some kernels refuse."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x.device for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.dim()]
        assert len(set(given)) < 2 or "copy" in str(func), f"{func} of tensors on {given}"
        return func(*args, **(kwargs or {}))


def compute_on_two_devices() -> None:
    """All that `outcomes` computes, on two devices that have shapes and no values."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    from transformers.initialization import no_init_weights

    _setup_privateuseone_for_python_backend("fake")

    def move(module: Any, name: str, device: Any, **settings: Any) -> None:
        parent, _, last = name.rpartition(".")
        owner = module.get_submodule(parent)
        if last in owner._parameters:
            owner._parameters[last] = torch.nn.Parameter(owner._parameters[last].to(device), False)
        else:
            owner._buffers[last] = owner._buffers[last].to(device)

    def to_device(vlm: Any, values: Any) -> torch.Tensor:
        return torch.tensor(values, device=vlm.device)

    def values(given: torch.Tensor) -> Any:
        assert given.device == torch.device("fake:0")
        return SimpleNamespace(read=lambda: [65] * len(given))

    made = torch.tensor

    def tensor(data: Any, device: Any = "cpu", **how: Any) -> torch.Tensor:
        like = made(data, **how)
        return torch.empty(like.shape, dtype=like.dtype, device=device)

    torch.tensor = tensor  # type: ignore[assignment]
    accelerate.hooks.set_module_tensor_to_device = move
    for module in (packed_inference, generation, prompt_reading):
        module.to_device, module.FromDevice = to_device, values  # type: ignore[attr-defined]
    decoding.logits_processors = lambda *given: []
    LlavaModel.encode_pixels = _encode_on_device(LlavaModel.encode_pixels)  # type: ignore[method-assign]
    with FakeTensorMode(allow_non_fake_inputs=True):
        with no_init_weights():
            model = llava()
        model = placement.dispatch(model, {p: f"fake:{i // 6}" for i, p in enumerate(PARTS)}, "fake:0")
        assert placement.layer_devices(model) == Counter({torch.device("fake:0"): 3, torch.device("fake:1"): 1})
        assert "over 2 devices" in placement.describe(model)
        with SameDevice():
            assert outcomes(wrapped(model))[2].device == torch.device("fake:0")


def _encode_on_device(encode: Any) -> Any:
    return lambda vlm, pixels: encode(vlm, [image.to(vlm.device) for image in pixels])


def test_no_operation_is_of_two_devices() -> None:
    assert forked.ended(forked.start(compute_on_two_devices)) == 0


def test_layers_are_spread_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(placement, "dispatch", lambda *given: taken.append(given))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    size = sum(p.nbytes for p in llava().model.language_model.layers[0].parameters())
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda gpu=0: (20 * size, 20 * size))
    placement.spread_layers(llava(), 1.0)
    placement.spread_layers(llava(), 0.25)
    (_, all_on_gpus, main), (_, with_cpu, _) = taken
    assert main == "cuda:0" and set(all_on_gpus.values()) == {"cuda:0", "cuda:1"}
    assert set(with_cpu.values()) == {"cuda:0", "cuda:1", "cpu"}


def test_each_gpu_s_memory_limits_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda:0": 64 << 20, "cuda:1": 16 << 20}
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free[str(device)], 64 << 20))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 0)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 0)
    monkeypatch.setattr(placement, "waiting_bytes", lambda model: 0)
    vlm = wrapped(llava())
    vlm.device = torch.device("cuda:0")
    of_layer = 2 * 2 * 12 * 4
    for layers, expected in (({0: 4}, (64 << 20) / 4), ({0: 3, 1: 1}, 16 << 20), ({0: 3, 1: 0.5}, (64 << 20) / 3)):
        on = Counter({torch.device("cuda", gpu): n for gpu, n in layers.items()})
        monkeypatch.setattr(placement, "layer_devices", lambda model, on=on: on)
        assert MemoryBudget.of(vlm, gpu_memory=1.0).kept_tokens == pytest.approx(0.6 * expected / of_layer, rel=1e-3)
    monkeypatch.setattr(placement, "waiting_bytes", lambda model: 60 << 20)
    budget = MemoryBudget.of(vlm, gpu_memory=1.0)
    assert (
        budget.kept_tokens == pytest.approx(0.6 * (4 << 20) / 3 / of_layer, rel=1e-3)
        and budget.pass_tokens < GPU_TOKENS
    )


def test_a_checkpoint_is_put_together_before_it_is_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_llava(tmp_path / "base")
    checkpoint = resolve_checkpoint(str(save_adapter(tmp_path / "adapter", base)))
    given: list[tuple[Any, float]] = []
    monkeypatch.setattr(
        placement, "spread_layers", lambda model, gpu_memory: given.append((model, gpu_memory)) or model
    )
    with loaded_vlm(checkpoint, RunConfig(dtype="float32", device_map="auto", gpu_memory=0.5), "cpu") as vlm:
        assert given == [(vlm.model, 0.5)]
    assert not any("lora" in name for name, _ in vlm.model.named_parameters())


def test_a_decoder_is_shared_where_transformers_has_a_plan_and_its_heads_can_be_divided() -> None:
    from transformers import AutoConfig, LlamaConfig

    config = llava().config
    assert placement.sharing_errors(config, 2) == []
    assert "2 key and value heads cannot be shared evenly among 4" in placement.sharing_errors(config, 4)[0]
    gathered = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, intermediate_size=64)
    gathered.base_model_tp_plan = {"layers.*.self_attn.qkv_proj": "colwise_gather_output"}
    assert placement.sharing_errors(gathered, 4) == []
    none = AutoConfig.for_model("mllama").get_text_config()
    assert "no tensor-parallel plan for a decoder of type 'mllama_text_model'" in placement.sharing_errors(none, 2)[0]
