"""What was published, as data, each with where it is from. Never mixed with what is measured: shown beside it, marked.

The paper is "Activating Distributed Visual Region within LLMs for Efficient and Effective Vision-Language Training and
Inference", ACL 2025, arXiv:2412.12785. It gives no interval anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "arXiv:2412.12785 (ACL 2025)"

SOURCES: dict[str, str] = {
    "A": "the paper's abstract",
    "C": "read in the official code",
    "N": "a published reading note of the ACL version, second hand",
}
"""Mark -> where a published figure is from."""

Cell = str | float
"""A word, or a figure with as many digits as were published."""


@dataclass(frozen=True)
class PublishedTable:
    """One published table.

    Attributes:
        title: what it is of.
        model: whose figures they are.
        source: key in `SOURCES`.
        headers: one a column.
        rows: figures as they were published.
        note: what a reader must know.
    """

    title: str
    model: str
    source: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def mark(self) -> str:
        """'N: a published reading note of the ACL version, second hand'."""
        return "; ".join(f"{letter}: {SOURCES[letter]}" for letter in self.source.split(", "))


@dataclass(frozen=True)
class PaperClaim:
    """One of the paper's claims.

    Attributes:
        id: 'C1' to 'C6'.
        said: what the paper says.
        source: keys in `SOURCES`.
        tested: what is tested of it here.
    """

    id: str
    said: str
    source: str
    tested: str


_BUNNY = "Bunny-Llama-3-8B-V"

PUBLISHED: dict[str, PublishedTable] = {
    "strategies": PublishedTable(
        "Which layers, 8 of 32",
        _BUNNY,
        "N",
        ("strategy", "OCRVQA", "DocVQA", "MMBench", "GQA", "SciQA", "TextVQA", "MMMU", "SEED", "average of 10"),
        (
            ("all layers", 64.26, 29.45, 74.74, 64.29, 79.28, 62.11, 40.6, 73.13, 62.18),
            ("sparse & uniform", 62.65, 29.51, 73.88, 63.68, 78.78, 62.43, 42.1, 72.61, 61.82),
            ("consecutive, bottom", 61.38, 22.47, 73.63, 62.33, 75.26, 62.26, 42.6, 72.66, 60.24),
            ("consecutive, top", 60.48, 26.47, 67.96, 60.30, 77.54, 58.71, 37.0, 71.00, 57.26),
            ("parameter change ratio", 63.94, 26.94, 73.54, 63.21, 78.68, 61.73, 42.0, 72.85, 61.45),
            ("angular distance", 60.95, 27.71, 73.88, 62.11, 77.14, 62.76, 39.9, 73.01, 60.77),
        ),
        "The average is over ten visual tasks, of which the note lists eight. It gives 61.82 for sparse & uniform "
        "here, and 61.78 for 8 layers in its table of how many layers.",
    ),
    "layers": PublishedTable(
        "How many layers, of 32",
        _BUNNY,
        "N",
        ("layers", "average", "retention %"),
        (
            ("32", 62.18, 100.0),
            ("16", 61.82, 99.42),
            ("8", 61.78, 99.36),
            ("6", 61.55, 98.99),
            ("4", 60.94, 98.01),
            ("2", 60.00, 96.49),
            ("1", 57.14, 91.89),
        ),
    ),
    "text": PublishedTable(
        "Text",
        "Bunny-Llama-3-8B-V and LLaVA-1.5-7B",
        "N",
        ("model", "MMLU", "BBH", "C-Eval", "CMMLU"),
        (
            ("Bunny, all layers", 60.27, 30.93, 45.84, 45.68),
            ("Bunny, 8 layers", 63.36, 31.50, 49.70, 48.39),
            ("Llama-3-8B backbone", 66.01, 57.93, 50.52, 50.70),
            ("LLaVA-1.5-7B, all layers", 50.52, 26.85, 38.34, 37.27),
            ("LLaVA-1.5-7B, 8 layers", 50.74, 31.64, 39.08, 37.71),
            ("Vicuna-7B backbone", 49.78, 29.33, 38.78, 36.60),
        ),
    ),
    "savings": PublishedTable(
        "Training time saved by tuning 25 % of the layers",
        "LLaVA-1.5-7B, LLaVA-1.5-13B and Bunny",
        "N",
        ("model", "time saved %"),
        (("LLaVA-1.5-7B", 23.0), ("LLaVA-1.5-13B", 23.0), ("Bunny", 13.0)),
    ),
}
"""Key -> published table."""

CLAIMS: tuple[PaperClaim, ...] = (
    PaperClaim(
        "C1",
        "Tuning 25 % of the LLM's layers, chosen sparsely and uniformly, keeps nearly 99 % of the visual performance "
        "of tuning them all.",
        "A",
        "the region keeps at least 99 % of the visual score of the model tuned everywhere",
    ),
    PaperClaim(
        "C2",
        "... and keeps or improves the textual results.",
        "A",
        "the region's text score is no more than 1 point below that of the model tuned everywhere",
    ),
    PaperClaim(
        "C3",
        "... and reduces training time (23 % for LLaVA-1.5-7B and -13B, 13 % for Bunny).",
        "A, N",
        "the region's training takes less time than that of all layers",
    ),
    PaperClaim(
        "C4",
        "Removing non-critical layers outside the visual region after such training costs little (0-4 layers by "
        "angular distance; 3-4 layers on LLaVA-1.5-7B clearly better than pruning a model tuned everywhere).",
        "A, N",
        "1 to 4 layers removed outside the region, without healing, keep at least 99 % of the region's visual score; "
        "and the region keeps more of its score than the model tuned everywhere keeps of its own",
    ),
    PaperClaim(
        "C5",
        "Consistent over Bunny-Llama-3-8B-V, LLaVA-1.5-7B, LLaVA-1.5-13B and Bunny-Phi3-mini-4B-V.",
        "A",
        "the claims above come out alike in several families",
    ),
    PaperClaim(
        "C6",
        "Before any training: putting some of LLaVA's layers back to Vicuna's weights hardly lowers visual scores.",
        "N",
        "with the fewest layers restored that were tried, at least 99 % of the visual score is kept",
    ),
)
"""The paper's claims, in its order."""
