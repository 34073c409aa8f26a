"""docs/results.md and the README quote the committed runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUDENT = dict(bccd='retinanet_mobilenetv2-0.25_fpn_bccd', ccp8='fcn_mobilenetv2-0.25_ccp8')
TAUGHT = dict(
    bccd='retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd',
    ccp8='fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8',
)
ARMS = {
    'the student alone': '{student}',
    'the exits taught by labels only': 'ds-gt_{student}',
    'logit KD alone': 'kd_{taught}',
    'the student alone, for as much time': '{student}_equal-time',
}
COLUMNS = ('bccd', 'ccp8')
PAGE = (ROOT / 'docs/results.md').read_text()


@pytest.fixture
def points(load_tool):
    records, statistics = load_tool('_compare_records'), load_tool('_compare_statistics')

    def read(data: str) -> dict:
        runs = records.read_records(ROOT / 'docs/results' / data, [])
        return {arm: each.set_index('seed')['points'] for arm, each in runs.groupby('arm')}

    def difference(scores, baseline) -> dict:
        return statistics.paired_difference((scores - baseline).dropna().to_numpy())

    return {data: read(data) for data in COLUMNS}, difference


@pytest.mark.parametrize('arm', ARMS)
def test_the_flagships_lead(arm, points):
    scores, difference = points
    (row,) = re.findall(rf'\| {re.escape(arm)} \| (.*) \| (.*) \|\n', PAGE)
    for cell, data in zip(row, COLUMNS, strict=True):
        names = dict(student=STUDENT[data], taught=TAUGHT[data])
        runs = scores[data]
        found = difference(runs['kd-ds_' + TAUGHT[data]], runs[ARMS[arm].format(**names)])
        assert found['pairs'] == 5
        text = f'{found["diff"]:+.2f} ± {found["diff_se"]:.2f}'
        assert cell.split(' (')[0] == (f'**{text}**' if found['clear'] else text)


def test_other_exits(points):
    scores, _ = points
    (line,) = re.findall(r'\*\*Other exits\*\*.*', PAGE)
    for arm, place in (
        ('kd-cross_', '`CrossExit` on the backbone '), ('kd-sem_', '`SemanticExit` '),
        ('kd_', 'without exits '), ('kd-ds_', 'features too, '),
    ):  # fmt: skip
        assert f'{place}{scores["bccd"][arm + TAUGHT["bccd"]][0]:.1f}' in line


def test_what_helps_apart(points):
    scores, difference = points
    for arm in ('ds-gt_' + STUDENT['ccp8'], 'kd_' + TAUGHT['ccp8']):
        found = difference(scores['ccp8'][arm], scores['ccp8'][STUDENT['ccp8']])
        assert f'{found["diff"]:+.2f} ± {found["diff_se"]:.2f}'.lstrip('+') in PAGE


def test_one_more_term(points):
    scores, difference = points
    runs = scores['ccp8']
    for other in (STUDENT['ccp8'], STUDENT['ccp8'] + '_equal-time', 'kd-ds_' + TAUGHT['ccp8']):
        found = difference(runs['kd-ds-pkd_' + TAUGHT['ccp8']], runs[other])
        assert found['pairs'] == 5
        assert f'{found["diff"]:.2f} ± {found["diff_se"]:.2f}' in PAGE


def test_means(points):
    scores, _ = points
    for data in COLUMNS:
        for config in ('kd-ds_' + TAUGHT[data], STUDENT[data]):
            runs = scores[data][config]
            assert f'{runs.mean():.2f}' in PAGE
