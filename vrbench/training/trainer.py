"""Training with transformers' Trainer: any model, any samples, one summed loss; resumable, on one device or many.

The Trainer gives the loop, the many devices (DDP, FSDP2, DeepSpeed by accelerate's own configuration) and the saved
states. What is ours: the order of the samples, a loss that is the mean over a whole step's items however the step is
split, the rates, the refusal of a loss that is not finite, and no waiting for a card between two steps.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from vrbench.core.errors import VrbenchError
from vrbench.training.checkpoint_folder import newest_state
from vrbench.training.memory import out_of_memory
from vrbench.training.monitor import Watch

BETA1 = 0.9
"""Of AdamW."""

Loss = Callable[[Any, dict[str, Any]], Tensor]
"""(model, batch) -> the loss summed over the batch's items, a scalar; the batch is what `collate` made."""

Collate = Callable[[list[Any]], dict[str, Any]]
"""Samples -> batch; its key "items" is the number of items (answer tokens) that the loss is the mean over, an int."""


@dataclass(frozen=True)
class Group:
    """Parameters with the same peak rate; only these are trained and saved."""

    parameters: Sequence[nn.Parameter]
    lr: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Course:
    """How a training goes.

    Attributes:
        label: name on the progress bar and in messages.
        steps: optimizer steps.
        batch: samples a step, over all devices and parts.
        accumulate: parts that a step is computed in on each device.
        schedule: "cosine" or "linear" (to 0), or "constant".
        warmup: share of the steps during which the rate rises.
        clip: largest gradient norm.
        seed: of what is random inside of the model (dropout).
        dtype: compute type, "bfloat16" or "float32".
        save_every: steps between saved states; 0 saves none.
        state: folder of the saved states; a training that was killed goes on from the newest of them.
        tokens: of the longest row, for the message when memory runs out.
        changing: whether not all of the parameters learn in every step.
        workers: processes that get samples ready.
        beta2: of AdamW.
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
    tokens: int = 0
    changing: bool = False
    workers: int = 0
    beta2: float = 0.98


class Objective(nn.Module):
    """A model together with its loss: what is wrapped for many devices, and whose trained parameters are saved."""

    accepts_loss_kwargs = True  # so that the Trainer hands over the number of items of the whole step

    def __init__(self, model: nn.Module, loss: Loss, groups: Sequence[Group]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        wanted = {id(p) for group in groups for p in group.parameters}
        self.trained = frozenset(name for name, p in self.named_parameters() if id(p) in wanted)
        self.config = getattr(model, "config", None)  # DeepSpeed's "auto" values are read from it
        kinds = {type(module).__name__ for module in model.modules()}
        self._no_split_modules = sorted(kinds & set(getattr(model, "_no_split_modules", None) or ()))  # FSDP's units
        self.learning = [p for group in groups for p in group.parameters]
        self.mode: bool | None = None  # the last that was said; the parts may have come in several modes
        self.is_sharded = False  # FSDP and DeepSpeed put other parameters in the place of those
        self.register_state_dict_post_hook(_keep_trained)
        self.register_load_state_dict_post_hook(_miss_nothing_frozen)

    def forward(self, num_items_in_batch: Any = None, **batch: Any) -> dict[str, Tensor]:
        """The loss over this part of a step: its sum over the items here by the number of items of the step."""
        return {"loss": self.loss(self.model, batch).float() / num_items_in_batch}

    def train(self, mode: bool = True) -> Objective:
        """As every module's, but free where it was said before: the Trainer says it in every step."""
        if self.mode != mode:
            self.mode = mode
            super().train(mode)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As every module's, without looking through the thousands of modules that LoRA makes of a model."""
        if self.is_sharded:
            super().zero_grad(set_to_none)
        for parameter in self.learning:
            parameter.grad = None


def _keep_trained(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    assert isinstance(module, Objective)
    for name in [n for n in state if n.startswith(prefix) and n.removeprefix(prefix) not in module.trained]:
        del state[name]


def _miss_nothing_frozen(module: nn.Module, found: Any) -> None:
    assert isinstance(module, Objective)
    found.missing_keys[:] = [name for name in found.missing_keys if name in module.trained]


class _Drawn(Dataset[Any]):
    """The samples in the order of the training."""

    def __init__(self, samples: Any, order: NDArray[np.int64]) -> None:
        self.samples, self.order = samples, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Any:
        return self.samples[int(self.order[place])]


class _Trainer(Trainer):
    """The Trainer with our order, groups, rates and counting of items."""

    optimizer: Any
    lr_scheduler: Any

    def __init__(self, groups: Sequence[Group], course: Course, watch: Watch, **given: Any) -> None:
        self.groups, self.course, self.watch = groups, course, watch
        super().__init__(**given)
        self.model.is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # its order is the training's

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = [{"params": list(g.parameters), "lr": g.lr, "weight_decay": g.weight_decay} for g in self.groups]
            fused = self.groups[0].parameters[0].is_cuda
            self.optimizer = torch.optim.AdamW(groups, betas=(BETA1, self.course.beta2), fused=fused)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            rate = rate_of(self.course)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        here = sum(int(batch["items"]) for batch in batch_samples)
        if self.args.world_size == 1:
            return here  # a plain number: no card is waited for
        return self.accelerator.reduce(torch.tensor(here, device=device), reduction="sum")

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.model.is_sharded:
            return super()._clip_grad_norm(model)
        return nn.utils.clip_grad_norm_(self.model.learning, self.args.max_grad_norm)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.watch.add(self.state.global_step, loss)
        return loss


def rate_of(course: Course) -> Callable[[int], float]:
    """The share of the peak rate at a step, counted from 0: a linear rise, then the schedule."""
    rising = max(1, round(course.steps * course.warmup))
    falling = max(1, course.steps - rising)

    def rate(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        if course.schedule == "constant":
            return 1.0
        left = 1 - (step - rising) / falling
        return left if course.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))

    return rate


def passes(count: int, samples: int, seed: Iterable[int]) -> NDArray[np.int64]:
    """`count` numbers of samples: shuffled passes over all of them, one after the other.

    Args:
        count: how many numbers.
        samples: how many samples there are.
        seed: the same seed gives the same order, whatever was drawn elsewhere.
    """
    draws = np.random.default_rng(list(seed))
    parts = [draws.permutation(samples) for _ in range(-(-count // samples))]
    return np.concatenate([*parts, np.empty(0, np.int64)])[:count]


def fit(
    model: nn.Module,
    loss: Loss,
    samples: Any,
    collate: Collate,
    groups: Sequence[Group],
    course: Course,
    order: NDArray[np.int64],
    device: torch.device,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[float]:
    """Train a model's groups of parameters and leave it in evaluation mode; returns the loss of every step.

    Args:
        model: its parameters outside of the groups have to be frozen.
        loss: sums the loss over a batch.
        samples: anything with `samples[number]`.
        collate: samples to a batch.
        groups: what is trained, in float32.
        course: how.
        order: numbers of samples, steps * batch of them, in the order in which they are used.
        device: "cpu" or "cuda"; under `accelerate launch` each process takes its own card.
        callbacks: more to do at each step, such as the drawing of layers.

    Raises:
        VrbenchError: the batch cannot be split so, the loss is not finite, or memory ran out.
    """
    assert len(order) == course.steps * course.batch
    with tempfile.TemporaryDirectory() as elsewhere:
        arguments = _arguments(course, course.state or Path(elsewhere), device)
        resumed = newest_state(course.state) if course.state else None
        watch = Watch(course.label, course.steps, course.save_every, arguments, resumed)
        trainer = _Trainer(
            groups, course, watch, model=Objective(model, loss, groups), args=arguments, data_collator=collate,
            train_dataset=_Drawn(samples, order), callbacks=[*callbacks, watch],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        _refuse_partitions(trainer)
        watch.accelerator = trainer.accelerator
        with out_of_memory(course.label, course.batch, course.accumulate, course.tokens, watch):
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    model.eval()
    return watch.all_losses()


def weights_of_shards(model: nn.Module) -> dict[str, Tensor] | None:
    """Name -> whole tensor, on the CPU, of what was trained in shards (FSDP2); none for a model that is whole.

    Every process has to call it.
    """
    from torch.distributed.tensor import DTensor

    if not any(isinstance(p, DTensor) for p in model.parameters()):
        return None
    trained = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
    return {name: p.full_tensor().cpu() if isinstance(p, DTensor) else p.cpu() for name, p in trained}


def _refuse_partitions(trainer: Trainer) -> None:
    """Refuse DeepSpeed's stage 3, whose partitioned weights nothing here puts together again.

    Raises:
        VrbenchError: it is configured.
    """
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == 3:
        raise VrbenchError("DeepSpeed's stage 3 is configured; weights are shared out by FSDP2, or by stages 1 and 2")


def _arguments(course: Course, folder: Path, device: torch.device) -> TrainingArguments:
    on_card = device.type == "cuda"
    made = TrainingArguments(
        output_dir=str(folder), max_steps=course.steps, gradient_accumulation_steps=course.accumulate,
        max_grad_norm=course.clip, seed=course.seed, bf16=course.dtype == "bfloat16", use_cpu=not on_card,
        save_strategy="steps" if course.save_every and course.state else "no", save_steps=course.save_every or 1,
        logging_strategy="no", logging_nan_inf_filter=False, report_to="none", disable_tqdm=True,
        remove_unused_columns=False, dataloader_num_workers=course.workers, dataloader_pin_memory=on_card,
        accelerator_config={"non_blocking": on_card}, ddp_find_unused_parameters=course.changing,
        ddp_broadcast_buffers=False,
    )  # fmt: skip
    made._n_gpu = min(1, made.n_gpu)  # several cards are for `accelerate launch`, not for DataParallel
    each, rest = divmod(course.batch, made.world_size * course.accumulate)
    if rest:
        raise VrbenchError(
            f"{course.label}: a batch of {course.batch} cannot be split evenly over {made.world_size} devices times "
            f"{course.accumulate} parts; change batch or accumulate"
        )
    made.per_device_train_batch_size = each
    return made
