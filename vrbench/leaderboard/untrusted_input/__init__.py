"""The only place that opens a stranger's file: everything is bounded, and what is odd is refused in one sentence.

Nothing that is read here is executed, imported or unpickled. What the parsers refuse, wherever it stands: more bytes,
rows, nesting or numbers than `limits` allows, keys or sample ids given twice, NaN and infinities, text that is not
UTF-8, schema versions of a later vrbench, aliases and tags of YAML; and of folders, links, devices and unknown names.
What is free text (answers, descriptions) is kept as it is and made harmless where it is shown: `shown` for a page
(whose template still escapes it), `csv_cell` for a table, `markdown_code` for a comment, `quoted` for a sentence.
"""

from vrbench.leaderboard.untrusted_input.files import read_bytes, read_text, submission_files, submission_folders
from vrbench.leaderboard.untrusted_input.names import safe_name, safe_revision, safe_task, safe_url
from vrbench.leaderboard.untrusted_input.parsing import parse_json, read_json, read_record
from vrbench.leaderboard.untrusted_input.sample_rows import read_samples
from vrbench.leaderboard.untrusted_input.submission import read_run
from vrbench.leaderboard.untrusted_input.text import csv_cell, markdown_code, quoted, shown
from vrbench.leaderboard.untrusted_input.yaml_text import parse_yaml, read_yaml, read_yaml_record

__all__ = [
    "csv_cell", "markdown_code", "parse_json", "parse_yaml", "quoted", "read_bytes", "read_json", "read_record",
    "read_run", "read_samples", "read_text", "read_yaml", "read_yaml_record", "safe_name", "safe_revision",
    "safe_task", "safe_url", "shown", "submission_files", "submission_folders",
]  # fmt: skip
