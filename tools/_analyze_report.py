"""The report of an analysis: JSON, tables, a picture, and the visualization backends."""

import json
import uuid
from pathlib import Path

import cv2
import numpy as np
from _analyze_picture import draw
from mmengine.config import Config
from mmengine.registry import VISUALIZERS


def report(args, analysis, stages, teacher, students, notes: list[str]) -> dict:
    """What was found, as it is written.

    Args:
        args: the command line.
        analysis: what was counted of predictions.
        stages: what was measured of features.
        teacher: the teacher.
        students: the students.
        notes: what is not available, a line each.
    """
    alone = next((s.name for s in students if not s.distilled), None)
    models = {}
    for listener in (teacher, *students):
        found = analysis.result(listener.name)
        found['stages'] = {
            stage: dict(
                cka=stages.cka(listener.name, stage),
                probe=analysis.score(listener.name, 'probe', stage),
            )
            for stage in stages.seen[listener.name]
        }
        if listener is teacher:
            models['teacher'] = dict(name=listener.teacher.title, **found)
            continue
        found['exits'] = {
            where: dict(stage=stage, score=analysis.score(listener.name, 'exit', where))
            for where, stage in listener.places.items()
        }
        _compare_with(found, alone, analysis)
        about = dict(checkpoint=listener.checkpoint, distilled=listener.distilled)
        models[listener.name] = {**about, **found}
    return dict(
        config=args.config, split=args.split, images=analysis.images, alone=alone,
        score=analysis.score_name, probe=analysis.probe_name, settings=analysis.settings,
        classes=list(analysis.classes), shared_classes=list(analysis.match.names),
        teacher=models.pop('teacher'), students=models, not_available=notes,
    )  # fmt: skip


def _compare_with(found: dict, alone: str | None, analysis) -> None:
    """Adds how much more often a student repeats an error than the one that was not taught."""
    if alone is None:
        return
    others = analysis.result(alone)['where_teacher_is_wrong']
    for key, row in found['where_teacher_is_wrong'].items():
        rates = row['follow_rate'], others.get(key, {}).get('follow_rate')
        row['follow_rate_over_alone'] = None if None in rates else rates[0] - rates[1]


def write(result: dict, out: Path, cfg: Config) -> None:
    """Write ``analysis.json``, ``.md`` and ``.png``, and hand them to the config's backends."""
    out.mkdir(parents=True, exist_ok=True)
    (out / 'analysis.json').write_text(json.dumps(result, indent=2))
    (out / 'analysis.md').write_text(markdown(result))
    draw(result, out / 'analysis.png')
    if cfg.get('visualizer') is not None:
        name = uuid.uuid4().hex  # of one name there is one for the whole process
        visualizer = VISUALIZERS.build(dict(cfg.visualizer, name=name, save_dir=str(out)))
        visualizer.add_scalars(scalars(result))
        picture = cv2.imread(str(out / 'analysis.png'))[..., ::-1]
        visualizer.add_image('analysis', np.ascontiguousarray(picture))
        visualizer.close()
    print(markdown(result), f'Written to {out}', sep='\n')


def scalars(result: dict) -> dict[str, float]:
    """The numbers that stand for themselves, by name."""
    found = {}
    for name, model in (('teacher', result['teacher']), *result['students'].items()):
        values = {'score': model['score'], 'ece': model['calibration']['ece']}
        values.update(model['dark_knowledge'])
        if 'agreement' in model:
            values['agreement'] = _first(model['agreement']['overall']).get('agreement')
            for what, row in model['where_teacher_is_wrong'].items():
                values[f'follow_rate/{what}'] = row['follow_rate']
        for stage, row in model['stages'].items():
            values.update({f'{key}/{stage}': value for key, value in row.items()})
        for where, row in model.get('exits', {}).items():
            values[f'exit/{where}'] = row['score']
        found.update({f'analysis/{name}/{k}': v for k, v in values.items() if v is not None})
    return found


def markdown(result: dict) -> str:
    """The tables."""
    students = result['students']
    both = {'teacher': result['teacher'], **students}
    lines = [
        '# What passed from teacher to student',
        f'{result["images"]} images ({result["split"]}); teacher {result["teacher"]["name"]}; '
        f'{len(result["shared_classes"])} shared classes.',
        '## Models',
        _table(
            ['', result['score'], 'ECE %', 'mass off the top %', 'entropy of the rest'],
            [
                [
                    name, _number(m['score']), _percent(m['calibration']['ece']),
                    _percent(m['dark_knowledge']['mass_off_top']),
                    _number(m['dark_knowledge']['entropy_of_rest'], 3),
                ]
                for name, m in both.items()
            ],
        ),
    ]  # fmt: skip
    for key, title in (
        ('overall', 'all'), ('by_class', 'class'), ('by_size', 'size'),
        ('by_confidence', "teacher's confidence"),
    ):  # fmt: skip
        lines += [f'## Agreement by {title} (%)', _agreement(students, key)]
    lines += ['## Where the teacher is wrong (%)', _wrong(students, result['alone'])]
    rows = [
        [name, stage, _number(row['cka'], 3), _number(row['probe'])]
        for name, m in both.items() for stage, row in m['stages'].items()
    ]  # fmt: skip
    title = ['', 'stage', 'CKA to the teacher', f'linear probe ({result["probe"]})']
    lines += ['## Stages', _table(title, rows)]
    rows = [
        [name, where, row['stage'] or '-', _number(row['score']), _number(m['score'])]
        for name, m in students.items() for where, row in m['exits'].items()
    ]  # fmt: skip
    if rows:
        title = ['', 'exit', 'stage', f'exit ({result["score"]})', f'final ({result["score"]})']
        lines += ['## Exits', _table(title, rows)]
    if result['not_available']:
        lines += ['## Not available', '\n'.join(f'- {x}' for x in result['not_available'])]
    return '\n\n'.join(lines) + '\n'


def _agreement(students: dict, key: str) -> str:
    groups = dict.fromkeys(g for m in students.values() for g in m['agreement'][key])
    title = ['', 'count', *(f'{name}: same' for name in students)]
    title += ['teacher right', *(f'{name}: right' for name in students)]
    rows = []
    for group in groups:
        found = [m['agreement'][key].get(group, {}) for m in students.values()]
        rows.append(
            [group, f'{found[0].get("count", 0):,}']
            + [_percent(row.get('agreement')) for row in found]
            + [_percent(found[0].get('teacher_accuracy'))]
            + [_percent(row.get('student_accuracy')) for row in found]
        )
    return _table(title, rows)


def _wrong(students: dict, alone: str | None) -> str:
    title = ['', 'of', 'teacher wrong', 'same error', 'right']
    title += [f'same error, over {alone}'] if alone else []
    rows = []
    for name, model in students.items():
        for what, row in model['where_teacher_is_wrong'].items():
            cells = [name, what, f'{row["teacher_wrong"]:,}', _percent(row['follow_rate'])]
            cells.append(_percent(row['correct_rate']))
            if alone:
                over = row.get('follow_rate_over_alone')
                cells.append('-' if over is None else f'{100 * over:+.1f}')
            rows.append(cells)
    return _table(title, rows)


def _table(title: list[str], rows: list[list]) -> str:
    lines = [title, ['---'] * len(title), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, cells)) + ' |' for cells in lines)


def _first(rows: dict) -> dict:
    return next(iter(rows.values()), {})


def _number(value: float | None, digits: int = 1) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
