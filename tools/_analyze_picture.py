"""The picture of an analysis: agreement, calibration, stages."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

STYLES = dict(cka='-', probe='--', exit='o')


def draw(result: dict, path: Path) -> None:
    """Draw agreement, calibration and stages."""
    students = result['students']
    figure = Figure(figsize=(12, 8.5), layout='constrained')
    axes = figure.subplots(2, 2)
    colours = dict(zip(students, colormaps['tab10'].colors))
    _draw_bars(axes[0, 0], students, colours)
    for name, model in students.items():
        rows = model['agreement']['by_confidence']
        style = dict(color=colours[name], marker='.')
        axes[0, 1].plot(
            rows.keys(), [100 * r['agreement'] for r in rows.values()], label=name, **style
        )
    rows = next(iter(students.values()))['agreement']['by_confidence']
    right = [100 * r['teacher_accuracy'] for r in rows.values()]
    axes[0, 1].plot(rows.keys(), right, 'k:', label='teacher right')
    axes[0, 1].set(xlabel="teacher's confidence", ylabel='student says the same (%)', ylim=(0, 102))
    axes[0, 1].tick_params(axis='x', rotation=45)
    _draw_reliability(axes[1, 0], result, colours)
    _draw_stages(axes[1, 1], result, colours)
    for axis in axes.flat:
        axis.spines[['top', 'right']].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle(f'What passed from teacher to student: {result["images"]} images')
    figure.savefig(path, dpi=100)


def _draw_bars(axis, students: dict, colours: dict) -> None:
    keys = ('by_class', 'by_size')
    groups = [
        (key, group)
        for key in keys
        for group in dict.fromkeys(g for m in students.values() for g in m['agreement'][key])
    ]
    places, width = np.arange(len(groups)), 0.8 / len(students)
    for index, (name, model) in enumerate(students.items()):
        values = [
            100 * model['agreement'][key].get(group, {}).get('agreement', np.nan)
            for key, group in groups
        ]
        shift = (index - (len(students) - 1) / 2) * width
        axis.bar(places + shift, values, width, color=colours[name], label=name)
    axis.set_xticks(places, [group for _, group in groups], rotation=45, ha='right')
    classes = sum(key == 'by_class' for key, _ in groups)
    axis.axvline(classes - 0.5, color='grey', linewidth=0.8)
    axis.set(ylabel='student says the same (%)', ylim=(0, 102), title='classes | sizes')


def _draw_reliability(axis, result: dict, colours: dict) -> None:
    axis.plot([0, 1], [0, 1], color='grey', linewidth=0.8)
    for name, model in (('teacher', result['teacher']), *result['students'].items()):
        ece, rows = model['calibration']['ece'], model['calibration']['bins']
        if ece is None:
            continue
        style = dict(color=colours.get(name, 'k'), marker='.')
        label = f'{name}, ECE {100 * ece:.1f} %'
        points = [r['confidence'] for r in rows], [r['accuracy'] for r in rows]
        axis.plot(*points, label=label, **style)
    axis.set(xlabel='confidence', ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))


def _draw_stages(axis, result: dict, colours: dict) -> None:
    order = list(dict.fromkeys(s for m in result['students'].values() for s in m['stages']))
    places = {stage: index for index, stage in enumerate(order)}
    for name, model in (('teacher', result['teacher']), *result['students'].items()):
        colour = colours.get(name, 'k')
        for key in ('cka', 'probe'):
            scale = 100 if key == 'cka' else 1
            points = [
                (places[stage], scale * row[key])
                for stage, row in model['stages'].items()
                if stage in places and row[key] is not None
            ]
            if points:
                label = f'{name}: ' + ('CKA x 100' if key == 'cka' else f'probe, {result["probe"]}')
                axis.plot(*zip(*points), STYLES[key], color=colour, label=label)
        points = [
            (places[row['stage']], row['score'])
            for row in model.get('exits', {}).values()
            if row['stage'] in places and row['score'] is not None
        ]
        if points:
            label = f'{name}: exit, {result["score"]}'
            axis.plot(*zip(*points), STYLES['exit'], color=colour, label=label)
    axis.set_xticks(range(len(order)), order, rotation=45, ha='right')
    axis.set(ylim=(0, None), title='stages')
