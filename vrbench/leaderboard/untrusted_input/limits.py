"""Limits on untrusted data: far above what a real run needs, far below what harms a small machine."""

RECORD_BYTES = 4 * 2**20  # run.json, submission.json, reproduction.json; the largest real one has about 20 KiB
YAML_BYTES = 256 * 2**10  # board.yaml, recipe.yaml; a recipe has about 2 KiB
PACKED_BYTES = 48 * 2**20  # a file of samples, compressed
SAMPLE_BYTES = 128 * 2**20  # the same, uncompressed; 14,000 questions with four options each take about 10 MiB
LINE_BYTES = 2**20  # one sample
ROWS = 200_000  # samples of one task; the largest known task has 100,424
NUMBERS = 4_000_000  # log-likelihoods of one task over all its samples; each takes about 60 bytes of memory
DEPTH = 64  # nested lists and objects; a lineage of several generations takes about 20
VALUES = 50_000  # values of one JSON text, counted by its commas: describing an error in each takes a kilobyte
TEXT = 20_000  # characters of one text of a record, such as a command or a note
BOARD_BYTES = 64 * 2**20  # leaderboard.json, which is generated; a row of 10 tasks has about 10 KiB
BOARD_VALUES = 1_000_000  # its values; a row of 10 tasks has about 300
LAYERS = 1_024  # decoder layers of a model; the deepest known one has 126
LAYERS_TEXT = 4_000  # characters of a layer set
INTEGER = 2**53  # integers beyond it are not exact in other JSON readers
ALL_ROWS = 400_000  # samples of one submission
ALL_BYTES = 256 * 2**20  # its samples, uncompressed
FILES = 512  # files of one submission
FOLDERS = 10_000  # submissions of one board
NAME = 64  # characters of a name
URL = 500  # characters of a URL
