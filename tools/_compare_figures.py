"""The interactive plots of a comparison's page."""

import pandas as pd
import plotly.graph_objects as go
from _compare_records import mean_curve
from _compare_statistics import CELL, mean_and_error
from plotly.subplots import make_subplots

# Okabe and Ito's colours, told apart by colour-blind readers too; the baseline is grey.
_COLOURS = ('#0072b2', '#d55e00', '#007a5a', '#b34d8c', '#2d93ad', '#9a6700', '#6a51a3', '#8c2d04')
_SYMBOLS = ('circle', 'square', 'diamond', 'triangle-up', 'cross', 'x', 'star', 'triangle-down')
_GREY = '#57606a'
AXES = dict(
    fraction=('share of the training set', '{:.4g} %', 100),
    schedule=("training time, in multiples of the config's own", '{:g} x', 1),
)


def short_names(arms: pd.DataFrame, baseline: str) -> dict[str, str]:
    """Give each arm the words of its config that tell it apart from the others.

    Args:
        arms (pd.DataFrame): ``arm`` and ``config``, a row for each arm.
        baseline (str): May lose all of its words.

    Returns:
        dict[str, str]: By arm; the arm itself where nothing can be left out.
    """
    words = {config: config.split('_') for config in arms['config']}
    every = [word for each in words.values() for word in dict.fromkeys(each)]
    # of the words that several have, the least telling, which most have, are left out first
    for word in sorted(dict.fromkeys(every), key=every.count, reverse=True):
        rest = {c: [w for w in each if w != word] for c, each in words.items()}
        distinct = len(set(map(tuple, rest.values()))) == len(rest)
        if every.count(word) > 1 and distinct:
            words = rest
    names = {}
    for arm, config in zip(arms['arm'], arms['config']):
        short = '_'.join(words[config])
        if not short and arm != baseline:
            return {each: each for each in arms['arm']}
        names[arm] = (short or 'baseline') + arm.removeprefix(config)
    return names


def cell_name(cell: tuple[float, float], varied: list[str]) -> str:
    """Give a cell's name by what is varied: ``25 % of the data, 2 x the schedule``."""
    parts = dict(zip(CELL, cell))
    words = dict(fraction='{:.4g} % of the data', schedule='{:g} x the schedule')
    return ', '.join(words[axis].format(parts[axis] * AXES[axis][2]) for axis in varied)


def varied_axes(runs: pd.DataFrame) -> list[str]:
    """Give which of ``fraction`` and ``schedule`` take more than one value."""
    return [axis for axis in CELL if runs[axis].nunique() > 1]


class Style:
    """One colour and one symbol for each arm in all plots.

    Args:
        names (dict[str, str]): What an arm is called, by arm.
        baseline (str): Its arm.
    """

    def __init__(self, names: dict[str, str], baseline: str):
        self.names = names
        others = [arm for arm in names if arm != baseline]
        self._places = {arm: i for i, arm in enumerate(others)}

    def colour(self, arm: str) -> str:
        place = self._places.get(arm)
        return _GREY if place is None else _COLOURS[place % len(_COLOURS)]

    def band(self, arm: str) -> str:
        red, green, blue = (int(self.colour(arm)[i : i + 2], 16) for i in (1, 3, 5))
        return f'rgba({red},{green},{blue},0.15)'

    def line(self, arm: str, **others) -> dict:
        """Give what the traces of an arm have in common."""
        place = self._places.get(arm, 0)
        return dict(
            name=self.names[arm],
            legendgroup=arm,
            line=dict(color=self.colour(arm), width=2),
            marker=dict(
                color=self.colour(arm), size=8, symbol=_SYMBOLS[place // 2 % len(_SYMBOLS)]
            ),
            **others,
        )


def _finish(figure: go.Figure, height: int, **layout) -> go.Figure:
    top = 60 if figure.layout.annotations else 40 if layout.get('showlegend', True) else 10
    figure.update_layout(
        template='plotly_white',
        height=height,
        margin=dict(l=10, r=10, t=top, b=10),
        dragmode=False,  # or a finger could not scroll past a plot
        font=dict(size=13, color='#1f2328'),
        legend=dict(orientation='h', x=0, y=1, yref='container', yanchor='top'),
        hoverlabel=dict(namelength=-1),
        **layout,
    )
    figure.update_xaxes(automargin=True, linecolor='#8c959f', ticks='outside')
    figure.update_yaxes(automargin=True, linecolor='#8c959f')
    return figure


def _band(figure: go.Figure, x, low, high, colour: str, arm: str, **place) -> None:
    figure.add_scatter(
        x=[*x, *reversed(x)], y=[*high, *reversed(low)], fill='toself', fillcolor=colour,
        mode='none', legendgroup=arm, showlegend=False, hoverinfo='skip', **place,
    )  # fmt: skip


def _panels(data: pd.DataFrame, along: str) -> tuple[go.Figure, list, int]:
    """Give a figure with a panel for each value of the other axis, and the height for it."""
    other = CELL[1 - CELL.index(along)]
    values = sorted(data[other].unique())
    titles = [''] * len(values)
    if len(values) > 1:
        titles = [f'{AXES[other][0]}: {AXES[other][1].format(v * AXES[other][2])}' for v in values]
    figure = make_subplots(
        len(values),
        1,
        shared_xaxes=True,
        subplot_titles=titles,
        vertical_spacing=0.25 / len(values),
    )
    figure.update_annotations(font_size=13)
    name, text, factor = AXES[along]
    ticks = sorted(data[along].unique())
    figure.update_xaxes(
        type='log',
        tickvals=ticks,
        ticktext=[text.format(t * factor) for t in ticks],
        minor_ticks='',
    )
    figure.update_xaxes(title=name, row=len(values))
    return figure, [(i + 1, data[data[other] == v]) for i, v in enumerate(values)], 130


def scores(runs: pd.DataFrame, style: Style, metric: str) -> go.Figure:
    """Draw each arm's mean and standard error: in one cell with each run, else by what varies."""
    varied = varied_axes(runs)
    if varied:
        figure, panels, extra = _panels(runs, varied[0])
        for row, data in panels:
            for arm, mine in data.groupby('arm', sort=False):
                groups = [(x, mean_and_error(m['points'])) for x, m in mine.groupby(varied[0])]
                x, found = zip(*groups)
                means, errors = zip(*found)
                figure.add_scatter(
                    x=x, y=means, error_y=dict(array=errors), mode='lines+markers', row=row, col=1,
                    showlegend=row == 1, **style.line(arm),
                )  # fmt: skip
        figure.update_yaxes(title=f'{metric}, points')
        return _finish(figure, extra + 300 * len(panels))
    figure = go.Figure()
    for arm, mine in runs.groupby('arm', sort=False):
        mean, error = mean_and_error(mine['points'])
        name = style.names[arm]
        figure.add_scatter(
            x=mine['points'], y=[name] * len(mine), mode='markers', showlegend=False,
            marker=dict(color='rgba(87,96,106,0.45)', size=6, symbol='line-ns-open'),
            text=[f'seed {seed}' for seed in mine['seed']], name=name,
        )  # fmt: skip
        figure.add_scatter(
            x=[mean], y=[name], error_x=dict(array=[error], thickness=2), mode='markers',
            **style.line(arm),
        )  # fmt: skip
    figure.update_yaxes(autorange='reversed')
    figure.update_xaxes(title=f'{metric}, points')
    return _finish(figure, 90 + 42 * runs['arm'].nunique(), showlegend=False)


def gains(summary: pd.DataFrame, style: Style, along: str, gain: str, over: str) -> go.Figure:
    """Draw the gain of each arm against the share of the data or the schedule, with its band.

    Args:
        summary (pd.DataFrame): From ``summarise``.
        style (Style): Of the page.
        along (str): ``'fraction'`` or ``'schedule'``, the logarithmic axis.
        gain (str): Start of the columns: ``'gain_'``, or ``''`` for the difference.
        over (str): What the gain is over, as a reader knows it.
    """
    figure, panels, extra = _panels(summary, along)
    for row, data in panels:
        for arm, mine in data.groupby('arm', sort=False):
            mine = mine.dropna(subset=[f'{gain}diff'])
            if mine.empty:
                continue
            place = dict(row=row, col=1)
            whole = mine.dropna(subset=[f'{gain}boot_low'])
            low, high = whole[f'{gain}boot_low'].tolist(), whole[f'{gain}boot_high'].tolist()
            _band(figure, whole[along].tolist(), low, high, style.band(arm), arm, **place)
            figure.add_scatter(
                x=mine[along], y=mine[f'{gain}diff'], mode='lines+markers', showlegend=row == 1,
                **style.line(arm), **place,
            )  # fmt: skip
        figure.add_hline(y=0, line=dict(color=_GREY, dash='dash'), row=row, col=1)
    figure.update_yaxes(title=f'points over {over}')
    return _finish(figure, extra + 300 * len(panels))


def curves(runs: pd.DataFrame, style: Style) -> go.Figure | None:
    """Draw the validation curves; several cells are chosen from a menu, the largest first."""
    figure, owners = go.Figure(), []
    varied = varied_axes(runs)
    cells = [(cell, here) for cell, here in runs.groupby(CELL)][::-1]
    for number, (_, here) in enumerate(cells):
        for arm, mine in here.groupby('arm', sort=False):
            x, means, errors = mean_curve(mine)
            if not x:
                continue
            _band(figure, x, means - errors, means + errors, style.band(arm), arm)
            figure.add_scatter(x=x, y=means, mode='lines+markers', **style.line(arm))
            owners += [number, number]
    if not owners:
        return None
    layout = {}
    if varied:
        figure.for_each_trace(lambda trace: trace.update(visible=False))
        for trace, owner in zip(figure.data, owners):
            trace.visible = owner == 0
        buttons = [
            dict(
                label=cell_name(cell, varied),
                method='restyle',
                args=['visible', [owner == number for owner in owners]],
            )
            for number, (cell, _) in enumerate(cells)
        ]
        menu = dict(buttons=buttons, x=1, xanchor='right', y=0, yanchor='bottom', direction='up')
        layout['updatemenus'] = [menu | dict(pad=dict(b=8, r=8), bgcolor='white')]
    figure.update_xaxes(title='training step', rangemode='tozero')
    figure.update_yaxes(title='validation score, points')
    return _finish(figure, 480, **layout)


def costs(table: pd.DataFrame, style: Style, metric: str, unit: str) -> tuple[go.Figure, go.Figure]:
    """Draw what each arm costs, and its score against that.

    Args:
        table (pd.DataFrame): ``arm``, ``cost`` relative to the baseline, ``mean``, ``se``.
        style (Style): Of the page.
        metric (str): Name of the score.
        unit (str): What is relative to the baseline.
    """
    bars, points = go.Figure(), go.Figure()
    for row in table.itertuples():
        name = style.names[row.arm]
        bars.add_bar(
            x=[row.cost], y=[name], orientation='h', name=name, text=[f'{row.cost:.2f} x'],
            marker_color=style.colour(row.arm), textposition='auto',
        )  # fmt: skip
        points.add_scatter(
            x=[row.cost], y=[row.mean], error_y=dict(array=[row.se]), mode='markers',
            **style.line(row.arm),
        )  # fmt: skip
    bars.update_yaxes(autorange='reversed')
    bars.update_xaxes(title=f'{unit}, relative to the baseline')
    points.update_xaxes(title=f'{unit}, relative to the baseline')
    points.update_yaxes(title=f'{metric}, points')
    height = 90 + 42 * len(table)
    return _finish(bars, height, showlegend=False), _finish(points, 420)
