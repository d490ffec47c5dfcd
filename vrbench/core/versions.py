"""Versions of the code that decides answers and scores: what has to be raised, and when.

A stored answer and a finished run are used again only where the code that would make them now has the same versions.
So whoever changes what such code gives raises its version by one, in the same commit:

- `COMPONENTS` below, for code that all families and tasks share;
- `vrbench.checkpoints.families.Family.version`, for what a family has of its own: prompt, stop rule, image
  settings, and how it is loaded and answers;
- `vrbench.tasks.scoring.Scorer.version`, for a scorer with its matching rules.

tests/core/test_versions.py holds what each version gives over fixed inputs and fails where that changed and the
version did
not; `python -m tests.fingerprints` then writes the new fingerprint. Its inputs are few: a change that they do not show
raises the version all the same.

Raise it when some input now gives another answer or another score; not for speed, wording, or inputs that were refused
and still are. Version 1 is the code of vrbench 0.2.0: it adds nothing to a digest, so that older runs keep theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vrbench.checkpoints.families import family_of

if TYPE_CHECKING:
    from vrbench.checkpoints.resolve import Checkpoint
    from vrbench.tasks.spec import TaskSpec

COMPONENTS: dict[str, int] = {
    "requests": 1,
    "context": 2,
    "images": 2,
    "layering": 1,
    "loglikelihood": 1,
    "decoding": 2,
    "metrics": 1,
}
"""Version of each part of the answering and scoring code that tasks and families share.

- `requests`: a task's items to prompts, options, images and limits (`evaluation/harness_tasks.py`,
`evaluation/settings.py`,
  the two adapters).
- `context`: what is done with a prompt that is longer than the model's context (`evaluation/fitting.py`,
  `models/context.py`). 2: with images it is not asked.
- `images`: an image file or column to the pixels that the image processor gets: orientation, modes, bit depths
  (`data/images.py`). 2: of 16 bits a channel the upper 8 are taken, where all but black became white.
- `layering`: a base and what was done to it to the weights that answer: adapters merged, deltas put on, layers removed
  (`models/layering.py`, `models/adapter.py`, `models/prune.py`). Counts where a checkpoint has a base.
- `loglikelihood`: tokens to log-likelihoods (`models/vlm.py`, `models/plain.py`).
- `decoding`: prompt to text, and where the text ends (`models/decoding.py`, `models/steering.py`, `models/plain.py`).
  2: a generation config that changes greedy answers, or names several ends, is followed as by `generate`.
- `metrics`: scores of items to a task's figure and its interval (`statistics/metrics.py`, `statistics/bootstrap.py`).
"""


def of_model(checkpoint: Checkpoint) -> dict[str, int]:
    """Versions of the code that makes the weights of a checkpoint and asks them, whatever the task."""
    layered = {"layering": COMPONENTS["layering"]} if checkpoint.base is not None else {}
    return {"family": family_of(checkpoint).version, **layered}


def of_task(checkpoint: Checkpoint, spec: TaskSpec) -> dict[str, int]:
    """Versions above 1 of the code that decides a checkpoint's answers to a task and their scores, by name."""
    from vrbench.tasks.task_code import scorer_named

    parts = ["requests", "context", "metrics"]
    if spec.harness == "lmms-eval":
        parts += ["images", "decoding"]
    else:
        parts.append("decoding" if scorer_named(spec.scorer).is_generated else "loglikelihood")
    found = {**of_model(checkpoint), "scorer": scorer_named(spec.scorer).version}
    found |= {name: COMPONENTS[name] for name in parts}
    return {name: version for name, version in sorted(found.items()) if version > 1}
