"""Plots are the same bytes wherever they are drawn."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure

from vrbench.reporting import plot_style


def drawn(width: float, form: str) -> bytes:
    """Two panels, the second of a width as a layout may compute it."""
    with plot_style.use_theme():
        figure = Figure(figsize=(6, 3))
        for left, wide in ((0.1, 0.3), (0.6, width)):
            axes = figure.add_axes((left, 0.1, wide, 0.8))
            axes.plot([0.0, 1.0], [1.0, 2.0], marker="o")
            axes.grid(True)
        return plot_style.encode_figure(figure, form)


def test_the_last_bit_of_a_layout_changes_no_byte() -> None:
    near = float(np.nextafter(0.33, 1.0))
    for form in ("svg", "png"):
        assert drawn(0.33, form) == drawn(near, form) != drawn(0.34, form)


def test_what_is_referred_to_is_there_once() -> None:
    svg = drawn(0.33, "svg").decode()
    ids, references = re.findall(r'\bid="([^"]+)"', svg), re.findall(r'(?:url\(|href=")#([^")]+)', svg)
    assert len(ids) == len(set(ids))
    assert set(references) <= set(ids)
    assert len({one for one in references if re.fullmatch(r"p\d+", one)}) == 2, "a clipping path for each panel"
