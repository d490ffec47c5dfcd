"""vrbench: what does a vision-language model whose LLM was made cheaper still see, and what can it still read?

From Python:
    evaluate(ckpt, tasks, ...) -> Run           one checkpoint on some tasks
    run_all(ckpts, tasks, baseline, ...)        several, vision features shared -> their runs, the baseline's first
    load_run(path) -> Run                       a stored run
    join(runs) -> list[Run]                     merge runs of one checkpoint over different tasks
    compare(runs, baseline) -> Comparison       what the runs keep of the baseline's scores
    Options                                     the keywords of evaluate and run_all as one object
    Run.to_pandas() -> DataFrame                a run's samples, one row each
    VrbenchError                                invalid input: one message per error

Example:
    >>> import vrbench
    >>> baseline, region = vrbench.run_all(["pocket/region"], "pocket_mme", baseline="pocket/full", limit=80)
    >>> print(vrbench.compare([region], baseline).model_dump_json(indent=1))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vrbench.core.version import __version__ as __version__

if TYPE_CHECKING:
    from vrbench.core.errors import VrbenchError
    from vrbench.core.run_storage import load_run
    from vrbench.core.schemas import Run
    from vrbench.evaluation.evaluate import evaluate, run_all
    from vrbench.evaluation.run_config import RunConfig as Options
    from vrbench.statistics.comparison import compare
    from vrbench.statistics.merge_runs import join

__all__ = ["Options", "Run", "VrbenchError", "__version__", "compare", "evaluate", "join", "load_run", "run_all"]

_PLACES = {
    "Options": "evaluation.run_config.RunConfig", "Run": "core.schemas.Run", "VrbenchError": "core.errors.VrbenchError",
    "compare": "statistics.comparison.compare", "evaluate": "evaluation.evaluate.evaluate",
    "join": "statistics.merge_runs.join", "load_run": "core.run_storage.load_run",
    "run_all": "evaluation.evaluate.run_all",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used, so that `import vrbench` costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'vrbench' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].rpartition(".")
    return getattr(import_module(f"vrbench.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
