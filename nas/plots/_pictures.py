"""Pictures side by side: what networks draw for the same prompts from the same noise."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.errors import NasError
from nas.plots._style import INK, new_figure


def plot_pictures(
    pictures: Mapping[str, np.ndarray],
    prompts: Sequence[str],
    *,
    group_titles: Sequence[str] = ("",),
    size: float = 1.05,
) -> Any:
    """Draw one row a prompt and one column a network, with matplotlib.

    Args:
        pictures: name of a network -> its pictures, uint8 [n x h x w x 3], in the order of the prompts.
        prompts: the n prompts.
        group_titles: with more than one, the prompts are laid out in that many equal groups side by side.
        size: side of a picture in inches.

    Raises:
        NasError: the numbers of pictures, prompts and groups do not fit together.
    """
    groups, names = len(group_titles), list(pictures)
    rows, rest = divmod(len(prompts), groups)
    if rest or not rows or any(len(pictures[name]) != len(prompts) for name in names):
        raise NasError(f"{len(prompts)} prompts in {groups} groups need as many pictures of each network")
    ratios = [ratio for _ in range(groups) for ratio in (1.7, *(1 for _ in names))]
    figure, grid = new_figure(
        width=size * sum(ratios),
        height=size * rows + 0.6,
        rows=rows,
        columns=len(ratios),
        width_ratios=ratios,
        squeeze=False,
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for index, prompt in enumerate(prompts):
        group, row = divmod(index, rows)
        cells = grid[row, group * (len(names) + 1) : (group + 1) * (len(names) + 1)]
        _draw_row(cells, prompt, {name: pictures[name][index] for name in names}, headed=row == 0)
    for group, title in enumerate(group_titles):
        grid[0, group * (len(names) + 1)].set_title(title, fontsize=9, color=INK, loc="left")
    return figure


def _draw_row(cells: Sequence[Any], prompt: str, row: Mapping[str, np.ndarray], *, headed: bool) -> None:
    label, *frames = cells
    label.text(
        0.98, 0.5, textwrap.fill(prompt, 20), ha="right", va="center", fontsize=8, color=INK, transform=label.transAxes
    )
    for axes, (name, picture) in zip(frames, row.items(), strict=True):
        axes.imshow(picture, interpolation="nearest")
        if headed:
            axes.set_title(name, fontsize=9, color=INK)
