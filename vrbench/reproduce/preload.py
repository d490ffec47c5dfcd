"""Imported once by the process that the processes of all steps are forked from: what most of them need."""

import peft  # noqa: F401  # with torch and transformers; none of them starts CUDA, after which no fork can use it

from vrbench.core.provenance import own_commit

own_commit()  # what is committed while the plan is executed is not what the steps run
