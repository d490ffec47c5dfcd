"""Versions of the code that determines answers and scores, and when to raise them.

A stored answer and a finished run are reused only where the code that would compute them now has the same versions. So
whoever changes the output of such code raises its version by one, in the same commit:

- `COMPONENTS` below, for code that all families and tasks share;
- `vrbench.checkpoints.families.Family.version`, for what a family has of its own: prompt, stop rule, image settings,
  and how it is loaded and answers;
- `vrbench.tasks.scoring.Scorer.version`, for a scorer with its matching rules.

tests/evaluation/test_code_versions.py records the output of each version over fixed inputs and fails where that changed
and the version did not; `python -m tests.fingerprints` then writes the new fingerprint. Its inputs are few: a change
that they do not show raises the version all the same.

Raise it when some input now gives another answer or another score; not for speed, wording, or inputs that were refused
and still are. Version 1 is the code of vrbench 0.2.0: it adds nothing to a digest, so that older runs keep theirs.
"""

from __future__ import annotations

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.families import family_of

COMPONENTS: dict[str, int] = {
    "requests": 1,
    "context": 2,
    "images": 2,
    "layering": 1,
    "loglikelihood": 1,
    "decoding": 2,
    "fixed_shapes": 1,
    "metrics": 1,
}
"""Version of each part of the answering and scoring code that tasks and families share.

- `requests`: a task's items to prompts, options, images and limits.
- `context`: prompts that are longer than the model's context. 2: with images they are not answered.
- `images`: an image file or column to the pixels that the image processor gets: orientation, modes, bit depths. 2: of
  16 bits a channel the upper 8 are used, where all but black became white.
- `layering`: a base and the edits to it to the weights that answer: adapters merged, deltas applied, layers removed.
  Counts where a checkpoint has a base.
- `loglikelihood`: tokens to log-likelihoods.
- `decoding`: prompt to text, and where the text ends. 2: a generation config that changes greedy answers, or names
  several end tokens, is followed as by `generate`.
- `fixed_shapes`: shapes of passes with `--deterministic`. Counts for answers to such runs alone.
- `metrics`: scores of items to a task's metric and its interval.
"""


def model_versions(checkpoint: Checkpoint) -> dict[str, int]:
    """Return versions of the code that loads a checkpoint and computes its answers, whatever the task."""
    layered = {"layering": COMPONENTS["layering"]} if checkpoint.base is not None else {}
    return {"family": family_of(checkpoint).version, **layered}
