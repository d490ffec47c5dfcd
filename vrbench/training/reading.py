"""The conversations that a recipe means, and what it leaves to the user to set (no torch)."""

from __future__ import annotations

from pathlib import Path

from vrbench.training.conversation_sets import Samples, from_json
from vrbench.training.hub_sets import Columns, from_hub
from vrbench.training.recipe import ConversationFile, HubConversations


def read(settings: ConversationFile | HubConversations) -> Samples:
    """The conversations that a recipe's section `data` means.

    Raises:
        VrbenchError: they are not there or faulty.
    """
    if isinstance(settings, ConversationFile):
        images = Path(settings.images).expanduser() if settings.images else None
        return from_json(Path(settings.conversations).expanduser(), images, settings.most_left_out)
    columns = Columns(settings.image, settings.turns, settings.question, settings.answer)
    root = Path(settings.data_root).expanduser() if settings.data_root else None
    config, revision = settings.config or "default", settings.revision or ""
    return from_hub(settings.hub, config, settings.split, revision, columns, root, settings.most_left_out)
