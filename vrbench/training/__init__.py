"""Training: from a recipe to a checkpoint folder.

The files of a run, in reading order: `recipe` (what a run is), `recipe_files` (reading one), `run`, `prepare`
(validation of the inputs), `stages` (what is trained when), `trainable` (which parameters), `trainer`, `monitor` and
`curves` (the loop), `dev_evaluation` (scores meanwhile), `checkpoint_folder` (what is written). Its data are
conversations (`conversation_sets`, `conversations`, `conversation_encoder`, `conversation_batches`) or, for the pocket
family, generated images (`pocket_images`, `tower`, `packing`, `pocket_data`). `cost`, `estimate` and `gpu_peaks` say
what a training will need, `profile`, `profile_results` and `shape_model` measure it.
"""

from __future__ import annotations

from vrbench.training.recipe import TrainRecipe
from vrbench.training.recipe_files import load, names

__all__ = ["TrainRecipe", "load", "names"]
