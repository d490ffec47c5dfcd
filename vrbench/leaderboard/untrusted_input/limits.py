"""How much of a stranger's data is read; far above what a real run needs, far below what harms a small machine."""

RECORD_BYTES = 4 * 2**20
"""run.json, submission.json, reproduction.json; the largest real one has some 20 KiB."""

YAML_BYTES = 256 * 2**10
"""board.yaml, recipe.yaml; a recipe has some 2 KiB."""

PACKED_BYTES = 48 * 2**20
"""A file of samples as it lies there, compressed."""

SAMPLE_BYTES = 128 * 2**20
"""The same, unpacked; 14,000 questions with four options each take some 10 MiB."""

LINE_BYTES = 2**20
"""One sample."""

ROWS = 200_000
"""Samples of one task; the largest known one has 100,424."""

NUMBERS = 4_000_000
"""Log-likelihoods of one task, over all its samples; each takes some 60 bytes of memory."""

DEPTH = 64
"""Lists and mappings in each other; a lineage whose bases have bases takes some 20."""

VALUES = 50_000
"""Values of one JSON text, by its commas: a fault of each takes a kilobyte to tell."""

TEXT = 20_000
"""Characters of one text of a record, such as a command or a note."""

BOARD_BYTES = 64 * 2**20
"""leaderboard.json, which is generated; a row of 10 tasks has some 10 KiB."""

BOARD_VALUES = 1_000_000
"""Its values; a row of 10 tasks has some 300."""

LAYERS = 1_024
"""Decoder layers of a model; the deepest known one has 126."""

LAYERS_TEXT = 4_000
"""Characters that name some of them."""

INTEGER = 2**53
"""Whole numbers beyond it are no longer exact as JSON's numbers are read elsewhere."""

ALL_ROWS = 400_000
"""Samples of one submission."""

ALL_BYTES = 256 * 2**20
"""Its samples, unpacked."""

FILES = 512
"""Files of one submission."""

FOLDERS = 10_000
"""Submissions of one board."""
