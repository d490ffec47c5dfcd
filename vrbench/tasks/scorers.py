"""How each official scoring is read: which harness YAML it comes from, and what of it is an item's score.

The scoring itself is the harness's own. A scorer here only says which of its numbers belongs to an item, and which
aggregate of the harness our figure must equal.
"""

from __future__ import annotations

from vrbench.tasks.scoring import Scorer
from vrbench.tasks.text_scorers import TEXT
from vrbench.tasks.visual_scorers import VISUAL

SCORERS: dict[str, Scorer] = {**VISUAL, **TEXT}
