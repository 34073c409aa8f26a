"""A sheet of pictures: panels in rows under their titles, legends below."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import mmcv
import numpy as np

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

DPI = 100
_MARGIN = 0.08  # inches, as all below
_LINE = 0.2
_CHARACTERS = 0.1, 0.083  # widths of one in a title and in a note
_WIDEST = 2000  # pixels of a row before it is broken
_TEXT = dict(ha='left', va='bottom', fontsize=10, linespacing=1.15)


@dataclass
class Panel:
    """One picture of a sheet.

    Args:
        title: What it shows.
        image: ``[H, W, 3]`` RGB, 0 to 255.
        note: A line below the title.
    """

    title: str
    image: np.ndarray
    note: str = ''


@dataclass
class Legend:
    """What colours mean.

    Args:
        title: What they are colours of.
        entries: Names by colour: ``(name, (r, g, b), line)``, 0 to 255; ``line`` is a style of
            matplotlib's, or ``None`` for a filled area.
    """

    title: str
    entries: list[tuple[str, tuple, str | None]]


def distinct_colours(count: int) -> list[tuple[int, int, int]]:
    """Colours that differ, ``(r, g, b)`` from 0 to 255."""
    if count <= 10:
        # blue and orange, the colours of errors, come last
        table = plt.get_cmap('tab10').colors
        return [
            tuple(round(255 * c) for c in colour) for colour in (*table[2:], *table[:2])[:count]
        ]
    name = 'tab20' if count <= 20 else 'gist_rainbow'
    table = plt.get_cmap(name)
    places = range(count) if count <= 20 else np.linspace(0, 1, count)
    return [tuple(round(255 * c) for c in table(place)[:3]) for place in places]


def fit(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """An image ``[H, W, 3]`` with this longer side in pixels, and the factor it was scaled by."""
    canvas = mmcv.imrescale(image, (side, side))
    return canvas, canvas.shape[1] / image.shape[1]


def greyed(image: np.ndarray) -> np.ndarray:
    """A pale grey image on which colours stand out."""
    grey = image.mean(2, keepdims=True) * 0.4 + 150
    return grey.repeat(3, 2).astype(np.uint8)


def draw_sheet(groups: list[list[Panel]], legends: list[Legend], file, title: str = '') -> Path:
    """Compose panels of one size into a picture.

    Args:
        groups: Panels; a group goes on in further rows where it is too wide. Those after the first
            share a row where they fit.
        legends: What is written below.
        file: The ``.png`` or ``.jpg`` to write.
        title: What is written above.

    Returns:
        Path: ``file``.
    """
    groups = [group for group in groups if group]
    height, width = (max(p.image.shape[i] for g in groups for p in g) / DPI for i in (0, 1))
    cell = max(width, 1.6) + _MARGIN
    rows = _arrange(groups, cell)
    sheet = max(len(row) for row in rows) * cell + _MARGIN
    heads = [[_wrapped(panel, cell) for panel in row] for row in rows]
    bands = [_columns(legend, sheet) for legend in legends]
    tops = [_LINE * max(len(title + note) for title, note in head) + 0.08 for head in heads]
    below = sum(_LINE * rows_of + 0.1 for _, rows_of in bands)
    above = 1.5 * _LINE if title else 0.0
    total = above + sum(top + height + _MARGIN for top in tops) + below + _MARGIN
    figure = plt.figure(figsize=(sheet, total), dpi=DPI)
    if title:
        place = (_MARGIN / sheet, 1 - 0.5 * above / total)
        figure.text(*place, title, ha='left', va='center', fontsize=11, color='0.35')
    y = total - above
    for row, head, top in zip(rows, heads, tops):
        y -= top + height
        for i, (panel, (title, note)) in enumerate(zip(row, head)):
            box = (_MARGIN + i * cell, y, cell - _MARGIN, height)
            axis = figure.add_axes([v / s for v, s in zip(box, (sheet, total) * 2)])
            axis.imshow(panel.image)
            axis.set_axis_off()
            place = [box[0] / sheet, (y + height + 0.05) / total]
            figure.text(*place, '\n'.join(note), color='0.35', **_TEXT)
            place[1] += _LINE * len(note) / total
            figure.text(*place, '\n'.join(title), weight='bold', **_TEXT)
        y -= _MARGIN
    for legend, (columns, rows_of) in zip(legends, bands):
        y -= 0.05
        _draw_legend(figure, legend, columns, y / total)
        y -= _LINE * rows_of + 0.05
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI, facecolor='white')
    plt.close(figure)
    return file


def _arrange(groups: list[list[Panel]], cell: float) -> list[list[Panel]]:
    """Rows of panels, none wider than a sheet."""
    fit = max(1, int(_WIDEST / (cell * DPI)))
    rows = []
    for number, group in enumerate(groups):
        if number > 1 and len(rows[-1]) + len(group) <= fit:
            rows[-1] = [*rows[-1], *group]
            continue
        count = -(-len(group) // fit)
        length = -(-len(group) // count)
        rows += [group[i : i + length] for i in range(0, len(group), length)]
    return rows


def _wrapped(panel: Panel, cell: float) -> tuple[list[str], list[str]]:
    """Lines of a title and of a note, as wide as a panel."""
    texts = zip((panel.title, panel.note), _CHARACTERS)
    return tuple(textwrap.wrap(text, int((cell - _MARGIN) / width)) for text, width in texts)


def _columns(legend: Legend, sheet: float) -> tuple[int, int]:
    """How many entries stand side by side, and the rows with the title's."""
    longest = max(len(name) for name, _, _ in legend.entries)
    columns = max(1, int((sheet - 2 * _MARGIN) / (0.55 + 0.09 * longest)))
    columns = min(columns, len(legend.entries))
    return columns, -(-len(legend.entries) // columns) + 1


def _draw_legend(figure, legend: Legend, columns: int, top: float) -> None:
    marks = []
    for name, colour, line in legend.entries:
        colour = [c / 255 for c in colour]
        if line is None:
            marks.append(Patch(facecolor=colour, edgecolor='0.6', linewidth=0.5, label=name))
        else:
            marks.append(Line2D([], [], color=colour, linestyle=line, linewidth=2, label=name))
    # matplotlib fills columns, a reader reads rows
    marks = [mark for column in range(columns) for mark in marks[column::columns]]
    figure.legend(
        handles=marks, title=legend.title, ncols=columns, loc='upper left', frameon=False,
        bbox_to_anchor=(0.003, top), borderpad=0.2, borderaxespad=0, columnspacing=1.2,
        handlelength=1.8, handletextpad=0.5, labelspacing=0.25, fontsize=9.5, title_fontsize=9.5,
        alignment='left',
    )  # fmt: skip
