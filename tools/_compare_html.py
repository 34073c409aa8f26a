"""The page of a comparison: one file, plots and pictures inside, for readers without the code."""

from html import escape
from pathlib import Path

import _compare_figures as draw
import pandas as pd
from _compare_records import provenance
from _compare_statistics import ALPHA, CELL, FEWEST_SEEDS, RESAMPLES
from _page import page, picture, plot, table

_MARKS = {'helps': '▲', 'hurts': '▼', 'no difference': '=', 'not enough seeds': '?'}


def to_html(
    summary: pd.DataFrame,
    total: pd.DataFrame | None,
    runs: pd.DataFrame,
    baseline: str,
    reference: str,
    command: str,
    pictures: Path,
) -> str:
    """Write the page.

    Args:
        summary (pd.DataFrame): By cell and arm, from ``summarise``.
        total (pd.DataFrame | None): By arm over all cells, where there are several.
        runs (pd.DataFrame): From ``read_records``.
        baseline (str): The arm of the differences.
        reference (str): The arm of the gains.
        command (str): What was run.
        pictures (Path): Folder of sample pictures; may be missing.
    """
    facts = provenance(runs)
    style = draw.Style(
        draw.short_names(runs.drop_duplicates('arm')[['arm', 'config']], baseline), baseline
    )
    metric, varied = facts['metric'], draw.varied_axes(runs)
    single = summary.set_index('arm')
    answer = _answer(single if total is None else total, style, baseline, reference, total is None)
    gain = 'gain_' if reference != baseline else ''
    over = style.names[reference]

    sections = {
        'What was compared': _compared(runs, style, baseline, reference, facts, command),
        'How to read this': _how_to_read(summary, runs),
        'Scores': plot('scores', draw.scores(runs, style, metric), _SCORES[bool(varied)]),
    }
    if varied:
        sections[f'Gain over {over}'] = ''.join(
            plot(
                f'gain-{along}',
                draw.gains(summary, style, along, gain, over),
                f'Points over {over} against the {draw.AXES[along][0]}, on a logarithmic axis. '
                f'Above the dashed line an arm is better than {over}; the band is the bootstrap '
                'interval.',
            )
            for along in varied
        )
    sections['Verdicts'] = _verdicts(summary, total, style, baseline, gain, over, varied)
    curves = draw.curves(runs, style)
    if curves is not None:
        text = 'Score on the validation split during training, mean and standard error over seeds.'
        text += ' The menu chooses which runs are shown.' if varied else ''
        sections['Validation curves'] = plot('curves', curves, text)
    sections['Cost'] = _cost(summary, style, metric, baseline, varied)
    files = sorted(pictures.glob('*.png')) if pictures.is_dir() else []
    if files:
        sections['Sample pictures'] = ''.join(map(picture, files))

    return page(f'{metric} of {len(style.names)} ways to train', answer, sections)


_SCORES = {
    False: 'Mean over the seeds with its standard error; small lines: single runs.',
    True: 'Mean over the seeds with its standard error; the axis is logarithmic.',
}


def _answer(
    found: pd.DataFrame, style: draw.Style, baseline: str, reference: str, single: bool
) -> str:
    """Say the verdicts in a sentence for each comparison."""
    sentences = []
    starts = [('', baseline)] + ([('gain_', reference)] if reference != baseline else [])
    for start, other in starts:
        words = found[f'{start}verdict'].dropna() if f'{start}verdict' in found else pd.Series()
        groups = []
        for word in _MARKS:
            arms = [
                f'{style.names[arm]} ({found.loc[arm, f"{start}diff"]:+.2f} points)'
                if pd.notna(found.loc[arm, f'{start}diff'])
                else style.names[arm]
                for arm in words.index[words == word]
            ]
            if arms:
                groups.append(f'<b>{word}</b>: {escape(", ".join(arms))}')
        where = '' if single else ' over all shares of the data and schedules'
        text = '; '.join(groups) or 'nothing to compare yet'
        name = escape(style.names[other])
        label = 'the baseline' if name == 'baseline' else name
        sentences.append(f'<p>Instead of {label}{where}: {text}.</p>')
    return ''.join(sentences)


def _compared(
    runs: pd.DataFrame,
    style: draw.Style,
    baseline: str,
    reference: str,
    facts: dict[str, str],
    command: str,
) -> str:
    arms, seeds = runs['arm'].nunique(), runs['seed'].nunique()
    words = (
        f'{arms} ways to train a model, called arms, were each trained with {seeds} random seeds'
    )
    varied = draw.varied_axes(runs)
    for axis, link in zip(varied, (', for each', ' and each')):
        name, text, factor = draw.AXES[axis]
        values = ', '.join(text.format(v * factor) for v in sorted(runs[axis].unique()))
        words += f'{link} {name} ({values})'
    words += (
        f'. Each of the {len(runs)} runs was scored once, at its end, on the {facts["split"]} '
        f'split by {facts["metric"]}, in points from 0 to 100; higher is better.'
    )
    roles = {baseline: 'baseline', reference: 'vanilla distillation'}
    if baseline == reference:
        roles = {baseline: 'baseline'}
    rows = [
        [
            escape(style.names[arm]),
            roles.get(arm, ''),
            f'<code>{escape(mine.iloc[0]["config"])}</code>',
        ]
        + ['' if pd.isna(mine.iloc[0]['grad_share']) else f'{mine.iloc[0]["grad_share"]:g}']
        + [str(len(mine))]
        for arm, mine in runs.groupby('arm', sort=False)
    ]
    head = ['arm', 'role', 'config', 'share of the gradient', 'runs']
    if all(not row[3] for row in rows):
        head.pop(3)
        rows = [row[:3] + row[4:] for row in rows]
    finished = sorted(record['finished'][:10] for record in runs['record'])
    terms = {key: facts[key] for key in ('seeds', 'machine', 'commit', 'teacher')}
    terms['finished'] = ' to '.join(dict.fromkeys([finished[0], finished[-1]]))
    facts_list = ''.join(f'<dt>{key}</dt><dd>{escape(text)}</dd>' for key, text in terms.items())
    return (
        f'<p>{escape(words)}</p>{table("The arms", head, rows)}'
        f'<dl>{facts_list}<dt>command</dt><dd><code>{escape(command)}</code></dd></dl>'
    )


def _how_to_read(summary: pd.DataFrame, runs: pd.DataFrame) -> str:
    varied = draw.varied_axes(runs)
    compared = summary.loc[summary['boot_low'].notna(), 'resampled']
    over = (
        'the seeds and the test images' if (compared == 'seeds and images').any() else 'the seeds'
    )
    lacking = (compared == 'seeds').sum()
    note = ''
    if lacking:
        note = (
            f' In {lacking} of {len(compared)} comparisons per-image statistics are missing, and '
            'only the seeds are drawn: what another set of images would change is not in it.'
        )
    texts = {
        'Seed': 'training starts from random numbers; a seed fixes them. The same training with '
        'another seed gives another score, so a difference counts only beside how far seeds '
        'differ. Arms are compared seed by seed.',
        'Standard error': 'how far the mean over the seeds would be expected to move, were other '
        'seeds taken.',
        'Interval': f'{100 * (1 - ALPHA):g} % bootstrap interval: {over} are drawn again '
        f'{RESAMPLES:,} times with replacement, and the middle {100 * (1 - ALPHA):g} % of the '
        f'differences kept.{note} With three to five seeds it is too narrow; the verdict is not '
        'taken from it.',
        'Verdict': '<b>helps</b> or <b>hurts</b>: a paired t-test over the seeds finds the '
        f'difference too large to be chance (p below {ALPHA}). <b>No difference</b>: none was '
        'shown, which does not prove that there is none. <b>Not enough seeds</b>: fewer than '
        f'{FEWEST_SEEDS}.',
        "Holm's correction": 'who tries many arms finds one that looks good by chance. p-values '
        'are raised by the number of arms tried, so that the chance of any false verdict '
        f'{"for a setting" if varied else "here"} stays below {100 * ALPHA:g} %.',
    }
    if varied:
        texts['Over all'] = (
            'the same test over all pairs of a setting and a seed. It treats them as independent '
            'and asks about the average over just these settings.'
        )
    return (
        '<dl>' + ''.join(f'<dt>{key}</dt><dd>{text}</dd>' for key, text in texts.items()) + '</dl>'
    )


def _word(word) -> str:
    if not isinstance(word, str):
        return ''
    kind = word if word in ('helps', 'hurts') else ''
    return (
        f'<span class="verdict {kind}"><span aria-hidden="true">{_MARKS[word]}</span> {word}</span>'
    )


def _numbers(row: pd.Series, start: str) -> list[str]:
    """Verdict, difference, interval and p of a row."""
    diff, low, high, p, word = (
        row[f'{start}{key}'] for key in ('diff', 'boot_low', 'boot_high', 'p_holm', 'verdict')
    )
    interval = '' if pd.isna(low) else f'[{low:+.2f}, {high:+.2f}]'
    chance = '' if pd.isna(p) else '&lt; 0.001' if p < 0.001 else f'{p:.3f}'
    return [_word(word), '' if pd.isna(diff) else f'{diff:+.2f}', interval, chance]


def _verdicts(
    summary: pd.DataFrame,
    total: pd.DataFrame | None,
    style: draw.Style,
    baseline: str,
    gain: str,
    over: str,
    varied: list[str],
) -> str:
    base = style.names[baseline]
    head = [f'instead of {base}', 'points', 'interval', 'p (Holm)']
    if gain:
        head += [f'instead of {over}', 'points', 'interval', 'p (Holm)']
    starts = ['', gain] if gain else ['']
    text = ''
    if total is not None:
        rows = [
            [escape(style.names[arm]), str(row['pairs'])]
            + [cell for start in starts for cell in _numbers(row, start)]
            for arm, row in total.iterrows()
        ]
        text += table('Over all settings', ['arm', 'pairs', *head], rows)
    rows = []
    for _, row in summary.iterrows():
        error = '' if pd.isna(row['se']) else f' ± {row["se"]:.2f}'
        cells = [draw.AXES[axis][1].format(row[axis] * draw.AXES[axis][2]) for axis in varied]
        rows.append(
            [escape(style.names[row['arm']]), *cells, str(row['n']), f'{row["mean"]:.2f}{error}']
            + [cell for start in starts for cell in _numbers(row, start)]
            + ['' if pd.isna(row['step_cost']) else f'{row["step_cost"]:.2f} x']
        )
    names = [dict(fraction='data', schedule='schedule')[axis] for axis in varied]
    caption = 'Setting by setting' if varied else 'Mean ± standard error, differences and verdicts'
    head = ['arm', *names, 'seeds', 'score', *head, 'step cost']
    return text + table(caption, head, rows)


def _cost(
    summary: pd.DataFrame, style: draw.Style, metric: str, baseline: str, varied: list[str]
) -> str:
    """Draw costs in the largest cell: seconds a step, or minutes a run where those lack."""
    cell, here = list(summary.groupby(CELL))[-1]
    unit, table = 'seconds a step', here.assign(cost=here['step_cost'])
    if table['cost'].isna().any():
        minutes = here.set_index('arm')['minutes']
        unit = 'minutes of training'
        table = here.assign(cost=here['minutes'] / minutes.get(baseline, float('nan')))
    if table['cost'].isna().all():
        return '<p>The baseline has not finished, so there is nothing to relate costs to.</p>'
    where = f', for {draw.cell_name(cell, varied)}' if varied else ''
    bars, points = draw.costs(table, style, metric, unit)
    why = '' if unit.startswith('sec') else '; the seconds of a step were not noted for all runs'
    return plot(
        'cost', bars, f'What each arm costs: {unit} relative to the baseline{where}{why}.'
    ) + (plot('score-cost', points, f'Score against cost{where}: up is better, left is cheaper.'))
