"""The tables of `tools/benchmark.py`."""

import json
from pathlib import Path


def to_markdown(record: dict) -> str:
    """Write one config's figures."""
    ms, peak, machine = record['ms'], record['peak_mib'], record['machine']
    more = peak['distilled'] / peak['student'] - 1
    lines = [
        f'## {record["config"]}',
        '',
        *(f'With `{key}={value}`.\n' for key, value in record['options'].items()),
        f'{record["data"]}; {machine.get("gpu") or machine["cpu"]}, '
        f'{machine["threads"]} thread(s), torch {machine["torch"]}; median of '
        f'{record["rounds"]} interleaved rounds; commit {record["commit"]}'
        f'{" with local changes" if record["dirty"] else ""}',
        '',
        '| student step | teacher | distilled step | / (student + teacher) | / student '
        '| peak memory of a step, student | distilled | more | teacher weights |',
        '|---|---|---|---|---|---|---|---|---|',
        f'| {ms["student"]:.0f} ms | {ms["teacher"]:.0f} ms | {ms["distilled"]:.0f} ms '
        f'| **{record["to_both"]:.2f}** | **{record["to_student"]:.2f}** '
        f'| {peak["student"]:.0f} MiB | {peak["distilled"]:.0f} MiB | {more:+.1%} '
        f'| {record["teacher_mib"]:.0f} MiB |',
        '',
        'Share of the distilled step that goes when one part does, its share of the teacher '
        'included: ' + ', '.join(f'{name} {share:.1%}' for name, share in record['parts'].items()),
    ]
    options = record.get('teacher_options')
    if options:
        plain = options[0]['ms']
        lines += ['', '| teacher run with | time / plain | largest difference |', '|---|---|---|']
        lines += [
            f'| {row["option"]} | {row["ms"] / plain:.2f} | {row["difference"]:.1e} |'
            for row in options
        ]
    return '\n'.join([*lines, ''])


def write_summary(out: Path) -> None:
    """Rewrite ``summary.md`` from all records in ``out``."""
    records = [json.loads(path.read_text()) for path in sorted(out.glob('*.json'))]
    (out / 'summary.md').write_text('\n'.join(map(to_markdown, records)))
