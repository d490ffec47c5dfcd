"""vrbench: what does a vision-language model whose LLM was made cheaper still see, and what can it still read?

From Python:
    evaluate(ckpt, tasks, ...) -> RunRecord     one checkpoint on some tasks
    run_all(ckpts, tasks, baseline, options)    several, vision features shared -> their runs, the baseline's first
    load_run(path) -> Run                       a run that was written before
    join(runs) -> list[Run]                     runs of one checkpoint made into one, with the tasks of all
    compare(runs, baseline) -> Comparison       what the runs keep of the baseline's scores
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vrbench.compare import compare
    from vrbench.evaluate import evaluate, run_all
    from vrbench.joining import join
    from vrbench.records import load_run

__version__ = "0.2.0"
__all__ = ["__version__", "compare", "evaluate", "join", "load_run", "run_all"]


class _Function:
    """A function of the API, imported when it is first used, so that `import vrbench` costs nothing."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __get__(self, package: ModuleType | None, owner: type) -> Any:
        return getattr(import_module(self.module), self.name)

    def __set__(self, package: ModuleType, value: Any) -> None:
        """Python binds an imported submodule to its name here; where a function bears that name, the function stays."""


class _Package(ModuleType):
    compare = _Function("vrbench.compare", "compare")
    evaluate = _Function("vrbench.evaluate", "evaluate")
    join = _Function("vrbench.joining", "join")
    load_run = _Function("vrbench.records", "load_run")
    run_all = _Function("vrbench.evaluate", "run_all")


sys.modules[__name__].__class__ = _Package
