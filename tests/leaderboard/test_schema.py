"""`submission.json`: what may be said in it, and where it belongs."""

from __future__ import annotations

from typing import Any

import pytest

from vrbench.leaderboard.schema import Submission

SAID: dict[str, Any] = {
    "board": "pocket", "org": "my-lab", "name": "region.8_a", "revision": "0" * 16, "family": "pocket",
    "baseline": "vrbench/pocket-full@" + "1" * 16, "submitted": "2026-11-23", "vrbench": "0.2.0",
    "run_digest": "a" * 64,
}  # fmt: skip


class TestSubmission:
    def test_its_path_follows_from_its_fields(self) -> None:
        made = Submission(**SAID)
        assert str(made.path) == f"pocket/submissions/my-lab__region.8_a/{'0' * 16}"
        assert made.reference == f"my-lab/region.8_a@{'0' * 16}"
        assert not made.is_baseline
        assert Submission(**SAID | {"baseline": made.reference}).is_baseline

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("org", "My-Lab"), ("org", ".."), ("org", "a__b"), ("org", "a/b"), ("org", ""), ("org", "a" * 65),
            ("name", "con"), ("name", "-a"), ("revision", "0" * 15), ("revision", "G" * 16), ("family", "../.."),
            ("baseline", "vrbench/pocket-full"), ("submitted", "2026-02-30"), ("submitted", "20260203"),
            ("url", "javascript:alert(1)"), ("url", "https://user:word@host/"), ("paper", "ftp://host/a"),
            ("code", "https://ho st/"), ("description", "two\nlines"), ("description", "\x1b[31m"),
            ("description", "a\u202eb"), ("description", "a" * 1001), ("description", " a"),
            ("licence", "x" * 101), ("run_digest", "a" * 63),
            ("vrbench", ""), ("schema_version", "1"), ("extra", "x"),
        ],
    )  # fmt: skip
    def test_a_wrong_field_is_refused(self, field: str, value: str) -> None:
        with pytest.raises(ValueError, match=field):
            Submission.model_validate(SAID | {field: value}, strict=True)

    @pytest.mark.parametrize("value", ["https://example.org/a?b=c&d=%20#e", "http://[::1]:8000/", ""])
    def test_addresses_of_the_web_are_taken(self, value: str) -> None:
        assert Submission(**SAID | {"url": value}).url == value
