"""A harness's generation settings -> when an answer ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrbench.checkpoints.families import StopRule
from vrbench.core.errors import VrbenchError
from vrbench.models.decoding import StopCriteria

OWN_SETTINGS = "of_the_task_file"
"""Setting that says that the others are a task file's own `stop_criteria`, which holds for every family."""

LENGTH_SETTINGS = ("max_gen_toks", "max_new_tokens", "max_tokens")
"""Names of the longest answer, the first that is there counts, as in lm-eval."""


def stop_criteria(settings: Mapping[str, Any], longest: int, stops: StopRule = tuple) -> StopCriteria:
    """The limit that some settings mean.

    Args:
        settings: `generation_kwargs` of a task.
        longest: tokens at most where the settings do not say.
        stops: what of the harness's `until` ends an answer; all of it where the settings are a task file's own.

    Raises:
        VrbenchError: the settings ask for sampling or beams; answers here are greedy, so that they can be repeated.
    """
    if settings.get("do_sample") or float(settings.get("temperature") or 0) > 0:
        raise VrbenchError("the task asks for sampled answers; only greedy ones are supported")
    if int(settings.get("num_beams") or 1) != 1:
        raise VrbenchError(f"the task asks for {settings['num_beams']} beams; only greedy answers are supported")
    until = settings.get("until") or ()
    given = [settings[name] for name in LENGTH_SETTINGS if settings.get(name) is not None]
    until = (until,) if isinstance(until, str) else tuple(until)
    return StopCriteria(int(given[0]) if given else longest, until if settings.get(OWN_SETTINGS) else stops(until))
