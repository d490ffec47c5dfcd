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

import sys
from importlib import import_module
from types import ModuleType
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


class _Lazy:
    """A name of the API, imported when it is first used, so that `import vrbench` costs nothing."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __get__(self, package: ModuleType | None, owner: type) -> Any:
        return getattr(import_module(self.module), self.name)

    def __set__(self, package: ModuleType, value: Any) -> None:
        """Python binds an imported submodule to its name here; where a function bears that name, the function stays."""


class _Package(ModuleType):
    Options = _Lazy("vrbench.evaluation.run_config", "RunConfig")
    Run = _Lazy("vrbench.core.schemas", "Run")
    VrbenchError = _Lazy("vrbench.core.errors", "VrbenchError")
    compare = _Lazy("vrbench.statistics.comparison", "compare")
    evaluate = _Lazy("vrbench.evaluation.evaluate", "evaluate")
    join = _Lazy("vrbench.statistics.merge_runs", "join")
    load_run = _Lazy("vrbench.core.run_storage", "load_run")
    run_all = _Lazy("vrbench.evaluation.evaluate", "run_all")

    def __dir__(self) -> list[str]:
        return sorted({*__all__, *(name for name in self.__dict__ if name.startswith("__"))})


sys.modules[__name__].__class__ = _Package
