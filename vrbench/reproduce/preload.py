"""Imported once by the process that the processes of all steps are forked from: what most of them need.

None of these libraries starts CUDA while it is imported; if one did, no forked process could use it.
"""

import datasets  # noqa: F401
import lm_eval.api.task  # noqa: F401
import lmms_eval.api.task  # noqa: F401
import peft  # noqa: F401

from vrbench.core.provenance import own_commit

own_commit()  # what is committed while the plan is executed is not what the steps run
