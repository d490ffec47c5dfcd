"""Training with transformers' Trainer: any model, any samples, one summed loss; resumable, on one device or many.

The Trainer provides the loop, the distribution (DDP, FSDP2, DeepSpeed by accelerate's own configuration) and the saved
states. Added here: the order of the samples, a loss that is the mean over a whole step's items (or over its
micro-batches) however the step is split, the learning rates, an error for a loss that is not finite, and no
synchronization with a GPU between steps.
"""

from __future__ import annotations

import functools
import gc
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate.optimizer
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import SequentialSampler, Subset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from vrbench.core.device import is_out_of_memory
from vrbench.core.errors import VrbenchError
from vrbench.training.checkpoint_folder import newest_state
from vrbench.training.curves import NO_REPORTS, Reporting
from vrbench.training.gpu_peaks import peak_flops
from vrbench.training.monitor import BatchFlops, Throughput, TrainingMonitor
from vrbench.training.recipe import AlignStage, TowerStage, TrainRecipe, TuneStage

IGNORED = -100
"""Label of a token without loss: PyTorch's and transformers' own."""

BETA1 = 0.9
"""Of AdamW."""

Loss = Callable[[Any, dict[str, Any]], Tensor]
"""(model, batch) -> the loss summed over the batch's items, a scalar; weighted if the batch has "weights" [samples]."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with the same peak learning rate; only these are trained and saved."""

    parameters: Sequence[nn.Parameter]
    lr: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class TrainingData:
    """The data of a training stage.

    Attributes:
        samples: anything with `samples[index]`.
        collate: samples -> batch; its key "items" lists each sample's number of items (answer tokens), whose mean the
            loss is, and "tokens" is the number of all, for the speed.
        order: indices of samples, steps * batch of them.
        tokens: of the longest row, for messages.
        measure: returns what the lineage reports about the trained model, such as the share of correct dev answers.
        workers: processes that load samples.
        has_unused_parameters: whether some batches give parameters no gradient, as those without images do.
        fixed_shapes: whether all batches have one shape.
    """

    samples: Any
    collate: Callable[[list[Any]], dict[str, Any]]
    loss: Loss
    order: NDArray[np.int64]
    tokens: int = 0
    measure: Callable[[], Mapping[str, Any]] = dict
    workers: int = 0
    has_unused_parameters: bool = False
    fixed_shapes: bool = False


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of one stage; see `vrbench.training.recipe` for those that a recipe states.

    Attributes:
        label: name on the progress bar and in messages.
        batch: samples a step, over all devices and parts.
        seed: of what is random inside of the model (dropout).
        state: folder of the saved states; an interrupted training resumes from the newest of them.
        samples_layers: whether layers take turns in being trained.
        micro_batch: samples of a micro-batch, of whose mean losses the step's is the mean; none: of items alone.
        reporting: where the curves go.
        flops: of the batches, for MFU.
        neftune: alpha of the noise on embeddings of tokens; none for no noise.
        trains_tower: whether the vision tower is trained, whose last layers may get no gradient.
        scores: evaluates the model every `score_every` steps and at the end.
    """

    label: str
    steps: int
    batch: int
    accumulate: int = 1
    schedule: str = "cosine"
    warmup: float = 0.04
    clip: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    save_every: int = 0
    state: Path | None = None
    samples_layers: bool = False
    beta2: float = 0.98
    micro_batch: int | None = None
    warmup_from_zero: bool = False
    tf32: bool = False
    reporting: Reporting = NO_REPORTS
    flops: BatchFlops | None = None
    neftune: float | None = None
    trains_tower: bool = False
    scores: Callable[[], dict[str, float]] | None = None
    score_every: int = 0

    @classmethod
    def from_recipe(
        cls, recipe: TrainRecipe, label: str, stage: TowerStage | AlignStage | TuneStage, steps: int,
        state: Path | None, reporting: Reporting = NO_REPORTS,
    ) -> TrainingConfig:  # fmt: skip
        """Return the settings that a recipe has for one of its stages."""
        names = ("accumulate", "schedule", "beta2", "micro_batch", "neftune")
        own = {name: getattr(stage, name) for name in names if hasattr(stage, name)}
        return cls(
            label, steps, stage.batch, warmup=recipe.warmup, clip=recipe.clip, seed=recipe.seed, dtype=recipe.dtype,
            save_every=stage.save_every, state=state, samples_layers=bool(getattr(stage, "sampling", None)),
            trains_tower=getattr(stage, "tower", "none") != "none",
            warmup_from_zero=recipe.warmup_from_zero, tf32=recipe.tf32, reporting=reporting, **own,
        )  # fmt: skip

    def rate(self, step: int) -> float:
        """Return the share of the peak rate at a step, counted from 0: a linear rise, then the schedule.

        With `warmup_from_zero` it is that of transformers' schedulers.
        """
        if self.warmup_from_zero:
            rising = math.ceil(self.steps * self.warmup)
        else:
            rising = max(1, round(self.steps * self.warmup))
        if step < rising:
            return (step + (not self.warmup_from_zero)) / rising
        if self.schedule == "constant":
            return 1.0
        left = 1 - (step - rising) / max(1, self.steps - rising)
        return left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


class LossModule(nn.Module):
    """A model together with its loss: what is wrapped for many devices, and whose trained parameters are saved."""

    accepts_loss_kwargs = True  # so that the Trainer passes the number of items of the whole step

    def __init__(self, model: nn.Module, loss: Loss, groups: Sequence[ParameterGroup]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.trained = [p for group in groups for p in group.parameters]
        ids = {id(p) for p in self.trained}
        self.trained_names = frozenset(name for name, p in self.named_parameters() if id(p) in ids)
        self.config = getattr(model, "config", None)  # DeepSpeed reads its "auto" values from it
        self._no_split_modules = _sharded_units(model)
        self.mode: bool | None = None  # unknown at first: parts of the model may be in different modes
        self.is_sharded = False  # FSDP and DeepSpeed replace the parameters
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_post_hook(_allow_missing_frozen)

    def forward(self, num_items_in_batch: Any = None, **batch: Any) -> dict[str, Tensor]:
        """Return the loss of this part of a step: its sum over the items here, divided by the items of the step."""
        loss = self.loss(self.model, batch).float() / num_items_in_batch
        if torch.is_grad_enabled() and not loss.requires_grad:  # texts alone, where the projector alone is trained
            loss = loss + 0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()
        return {"loss": loss}

    def train(self, mode: bool = True) -> LossModule:
        """Set the mode as usual, but only when it changes: the Trainer sets it in every step."""
        if self.mode != mode:
            self.mode = mode
            super().train(mode)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset gradients as usual, without walking the thousands of modules that LoRA adds to a model."""
        if self.is_sharded:
            super().zero_grad(set_to_none)
        for parameter in self.trained:
            parameter.grad = None

    def connect_texts(self) -> None:
        """Let samples without images reach the projector, with a gradient of 0, through the embedding of tokens.

        FSDP's processes hang if one has gradients that another lacks.
        """

        def add_nothing(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
            found = [p.sum() for p in self.parameters() if p.requires_grad and type(p.data) is Tensor]  # not sharded
            return embedded + 0 * torch.stack(found).sum() if found and torch.is_grad_enabled() else embedded

        embeddings = getattr(self.model, "get_input_embeddings", None)
        if embeddings is not None:
            embeddings().register_forward_hook(add_nothing)


def _sharded_units(model: Any) -> list[str]:
    """Return the classes of the modules that FSDP shards by themselves: layers that every sample passes.

    Processes gather a unit together, so the vision tower, which texts do not pass, is not among them.
    """
    layers = model.get_decoder() if hasattr(model, "get_decoder") else model
    classes = {type(module).__name__ for module in layers.modules()}
    return sorted(classes & set(getattr(model, "_no_split_modules", None) or ()))


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    assert isinstance(module, LossModule)
    for name in [n for n in state if n.startswith(prefix) and n.removeprefix(prefix) not in module.trained_names]:
        del state[name]


def _allow_missing_frozen(module: nn.Module, found: Any) -> None:
    assert isinstance(module, LossModule)
    found.missing_keys[:] = [name for name in found.missing_keys if name in module.trained_names]


class _Trainer(Trainer):
    """The Trainer with its own order, parameter groups, learning rates and counting of items."""

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self, groups: Sequence[ParameterGroup], config: TrainingConfig, monitor: TrainingMonitor, **given: Any
    ) -> None:
        self.groups, self.config, self.monitor = groups, config, monitor
        super().__init__(**given)
        self.model.is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.is_fsdp_enabled:
            self.model.connect_texts()

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # which is in our order

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = [{"params": list(g.parameters), "lr": g.lr, "weight_decay": g.weight_decay} for g in self.groups]
            fused = self.groups[0].parameters[0].is_cuda
            self.optimizer = torch.optim.AdamW(groups, betas=(BETA1, self.config.beta2), fused=fused)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self.config.rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if self.config.micro_batch:
            for batch, weights in zip(batch_samples, self._sample_weights(batch_samples, device), strict=True):
                batch["weights"] = weights
            return 1  # the weights are those of a mean
        here = sum(sum(batch["items"]) for batch in batch_samples)
        if self.args.world_size == 1:
            return max(here, 1)  # a plain number needs no synchronization with the GPU; samples may have no label
        return self.accelerator.reduce(torch.tensor(here, device=device), reduction="sum").clamp(min=1)

    def _sample_weights(self, batches: list[Any], device: torch.device) -> Tensor:
        """Return the weights of this process's samples, [accumulation steps, samples of each]."""
        assert self.config.micro_batch
        here, processes = torch.tensor([batch["items"] for batch in batches], device=device), self.args.world_size
        items = self.accelerator.gather(here).view(processes, *here.shape).transpose(0, 1)  # in sample order
        weights = micro_batch_weights(items.flatten(), self.config.micro_batch)
        return weights.view_as(items)[:, self.args.process_index]

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.model.is_sharded:
            norm = super()._clip_grad_norm(model)
        else:
            norm = nn.utils.clip_grad_norm_(self.model.trained, self.args.max_grad_norm)
        self.monitor.add_norm(self.state.global_step, norm)
        return norm

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.monitor.add(self.state.global_step, loss, inputs)
        return loss


def micro_batch_weights(items: Tensor, size: int) -> Tensor:
    """Return the weights that make a sum over a step's items the mean of its micro-batches' means.

    Args:
        items: [samples] of a step, the number of each one's items.
        size: samples of a micro-batch.

    Returns:
        [samples], each the weight of all of its items.
    """
    totals = items.view(-1, size).sum(1).clamp(min=1)
    return (1 / (totals * len(totals))).repeat_interleave(size)


def shuffled_passes(count: int, samples: int, seed: Iterable[int]) -> NDArray[np.int64]:
    """Return `count` indices of samples: shuffled passes over all of them, which depend on the seed alone."""
    rng = np.random.default_rng(list(seed))
    parts = [rng.permutation(samples) for _ in range(-(-count // samples))]
    return np.concatenate([*parts, np.empty(0, np.int64)])[:count]


def mixed_order(
    kinds: Iterable[tuple[NDArray[np.int64], int]], steps: int, seed: int, stream: int
) -> NDArray[np.int64]:
    """Return the indices of all steps' samples, in each step so many of each kind (the kind's indices, their number).

    Kind k is drawn in shuffled passes by the random stream `stream` + k of the seed.
    """
    parts = [
        indices[shuffled_passes(steps * count, len(indices), (seed, of_kind))].reshape(steps, count)
        for of_kind, (indices, count) in enumerate(kinds, stream)
    ]
    return np.concatenate(parts, axis=1).reshape(-1)


def fit(
    model: nn.Module,
    data: TrainingData,
    groups: Sequence[ParameterGroup],
    config: TrainingConfig,
    device: torch.device,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[float]:
    """Train a model's groups of parameters and leave it in evaluation mode; returns the loss of every step.

    The groups are in float32, and all other parameters frozen. Under `accelerate launch` each process has its own GPU.

    Raises:
        VrbenchError: the groups are not what is trainable, the batch cannot be split evenly, the loss is not finite, or
            memory ran out.
    """
    assert len(data.order) == config.steps * config.batch
    _validate_groups(model, groups, config.label)
    with tempfile.TemporaryDirectory() as elsewhere:
        arguments = _arguments(config, data, config.state or Path(elsewhere), device)
        resumed = newest_state(config.state) if config.state else None
        monitor = _monitor(groups, config, arguments, resumed)
        module = LossModule(model, data.loss, groups)
        if config.neftune:  # not otherwise: with FSDP2, accelerate would shard it apart from a head that is tied to it
            module.get_input_embeddings = model.get_input_embeddings
        trainer = _Trainer(
            groups, config, monitor, model=module, args=arguments,
            data_collator=data.collate, train_dataset=Subset(data.samples, data.order.tolist()),
            callbacks=[*config.reporting.callbacks(config.label), *callbacks, monitor],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        _validate_sharding(trainer, config)
        monitor.trainer = trainer
        _look_up_packages_once()
        gc.freeze()  # a collection would walk the thousands of modules that LoRA adds to a model
        try:
            with _tf32(config.tf32 and device.type == "cuda"):
                trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise VrbenchError(_out_of_memory(config, data) + monitor.newest_state_note()) from error
        finally:
            gc.unfreeze()
            monitor.close()
    model.eval()
    return monitor.all_losses()


def _out_of_memory(config: TrainingConfig, data: TrainingData) -> str:
    rows = f", rows of up to {data.tokens} tokens" if data.tokens else ""
    return (
        f"{config.label}: memory ran out with {config.batch} samples a step, computed in {config.accumulate} "
        f"part(s){rows}; raise accumulate (the result is the same), set checkpointing, lower batch, or tune "
        "fewer layers"
    )


def _monitor(
    groups: Sequence[ParameterGroup], config: TrainingConfig, arguments: TrainingArguments, resumed: Path | None
) -> TrainingMonitor:
    device = arguments.device
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return TrainingMonitor(
        config.label, config.steps, arguments, lambda step: groups[0].lr * config.rate(step),
        Throughput(config.flops, peak if config.dtype == "bfloat16" else None), config.reporting, resumed,
        config.scores, config.score_every,
    )  # fmt: skip


def _validate_groups(model: nn.Module, groups: Sequence[ParameterGroup], label: str) -> None:
    """Raise `VrbenchError` unless the optimizer gets each trainable parameter once, and no frozen one."""
    times = Counter(id(p) for group in groups for p in group.parameters)
    wrong = [name for name, p in model.named_parameters() if times[id(p)] != p.requires_grad]
    if wrong:
        raise VrbenchError(
            f"{label}: {len(wrong)} parameters are trainable without a learning rate, have two, or have one and are "
            f"frozen, such as {wrong[0]}"
        )


@contextmanager
def _tf32(is_on: bool) -> Iterator[None]:
    """Let a GPU multiply float32 matrices in TF32; its convolutions do so by torch's default."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if is_on else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def gather_shards(model: nn.Module) -> dict[str, Tensor] | None:
    """Return name -> whole tensor, on the CPU, of what was trained in shards (FSDP2); None for an unsharded model.

    Every process has to call it.
    """
    from torch.distributed.tensor import DTensor

    if not any(isinstance(p, DTensor) for p in model.parameters()):
        return None
    trained = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
    return {name: p.full_tensor().cpu() if isinstance(p, DTensor) else p.cpu() for name, p in trained}


def _look_up_packages_once() -> None:
    """Cache a search through the folders of all packages that accelerate makes twice in every step."""
    if not hasattr(accelerate.optimizer.is_lomo_available, "cache_info"):
        accelerate.optimizer.is_lomo_available = functools.cache(accelerate.optimizer.is_lomo_available)


def _validate_sharding(trainer: Trainer, config: TrainingConfig) -> None:
    """Refuse DeepSpeed's stage 3, whose weights are not gathered here, and what needs weights that are not sharded.

    Raises:
        VrbenchError: it is one of these.
    """
    if config.samples_layers and trainer.model.is_sharded:
        raise VrbenchError(
            "tune.sampling has no effect with FSDP or DeepSpeed, which replace the weights that it freezes; use one "
            "GPU, or several with DDP"
        )
    if config.scores is not None and trainer.model.is_sharded:
        raise VrbenchError("'eval' needs the whole model on each device; leave it out with FSDP and DeepSpeed")
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == 3:
        raise VrbenchError("DeepSpeed's stage 3 is not supported; shard weights with FSDP2, or use stages 1 and 2")


def _arguments(config: TrainingConfig, data: TrainingData, folder: Path, device: torch.device) -> TrainingArguments:
    on_gpu = device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=config.steps, gradient_accumulation_steps=config.accumulate,
        max_grad_norm=config.clip, seed=config.seed, bf16=config.dtype == "bfloat16", use_cpu=not on_gpu,
        save_strategy="steps" if config.save_every and config.state else "no", save_steps=config.save_every or 1,
        logging_strategy="no", logging_nan_inf_filter=False, report_to="none", disable_tqdm=True,
        run_name=f"{config.reporting.name} {config.label}", neftune_noise_alpha=config.neftune,
        remove_unused_columns=False, dataloader_num_workers=data.workers, dataloader_pin_memory=on_gpu,
        accelerator_config={"non_blocking": on_gpu}, ddp_broadcast_buffers=False,
        ddp_find_unused_parameters=config.samples_layers or config.trains_tower or data.has_unused_parameters,
    )  # fmt: skip
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs are for `accelerate launch`, not for DataParallel
    each, rest = divmod(config.batch, arguments.world_size * config.accumulate)
    if rest:
        raise VrbenchError(
            f"{config.label}: a batch of {config.batch} cannot be split evenly over {arguments.world_size} devices "
            f"times {config.accumulate} parts; change batch or accumulate"
        )
    arguments.per_device_train_batch_size = each
    return arguments
