"""The report of tools/compare.py: old results, arms and cells, and the page in a browser."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, started
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
ALONE, KD, EXITS = 'fcn_small_set', 'kd_fcn_big_small_set', 'kd-ds_fcn_big_small_set'
NUMBERS = ['n', 'mean', 'se', 'pairs', 'diff', 'diff_se', 'low', 'high', 'minutes']


def write_study(out: Path, fractions=(1.0,), schedules=(1.0,), shares=(None,), seeds=3) -> None:
    """Results of three configs; what teaches is better by 2 points, with exits by 3."""
    out.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for fraction in fractions:
        for schedule in schedules:
            for seed in range(seeds):
                for config, gain in ((ALONE, 0), (KD, 2), (EXITS, 3)):
                    for share in shares if gain else shares[:1]:
                        score = 30 + 5 * np.log10(fraction) + gain + rng.normal(0, 0.2)
                        stem = f'{config}_{share}_{fraction}_{schedule}_seed{seed}'
                        record = dict(
                            config=config, config_hash=f'{config}{schedule}{share}',
                            teacher_sha256='ab' * 32 if gain else None, seed=seed,
                            fraction=fraction, schedule=schedule, grad_share=share, split='test',
                            metric='mIoU', score=score, metrics={'mIoU': score, 'aAcc': 80.0},
                            curve=[[100, score - 5], [200, score]], commit='abc1234', dirty=False,
                            minutes=3.0, step_seconds=0.5 * (1 + 0.2 * gain), iterations=200,
                            machine=dict(cpu='a <small> cpu', threads=1, torch='2.13.0'),
                            finished='2026-01-01T00:00:00+00:00',
                        )  # fmt: skip
                        (out / f'{stem}.json').write_text(json.dumps(record))


def test_old_results_give_the_same_numbers(load_tool, tmp_path):
    old = ROOT / 'docs/results/bccd'
    before = pd.read_csv(old / 'summary.csv')
    for path in old.glob('*.json'):
        shutil.copy(path, tmp_path)
    report = load_tool('_compare_report')
    text = report.write_report(tmp_path, before['config'].tolist(), None, None, 'compare')
    after = pd.read_csv(tmp_path / 'summary.csv')
    assert after['config'].tolist() == before['config'].tolist()
    pd.testing.assert_frame_equal(after[NUMBERS], before[NUMBERS], check_dtype=False)
    assert 'seeds only, as per-image statistics are missing' in text
    assert '| data |' not in text and 'Row minus column' in text
    assert (tmp_path / 'report.html').stat().st_size > 3e6


def test_arms_and_cells(load_tool, tmp_path):
    write_study(tmp_path, fractions=(0.1, 1.0), shares=(None, 0.1))
    report = load_tool('_compare_report')
    text = report.write_report(tmp_path, [ALONE, KD, EXITS], None, None, 'compare')
    summary = pd.read_csv(tmp_path / 'summary.csv')
    arms = [ALONE, KD, f'{KD} @0.1', EXITS, f'{EXITS} @0.1']
    assert summary['arm'].tolist() == 2 * arms or set(summary['arm']) == set(arms)
    assert summary['fraction'].tolist() == [0.1] * 5 + [1.0] * 5
    row = summary.set_index(['arm', 'fraction']).loc[(f'{EXITS} @0.1', 0.1)]
    assert row['step_cost'] == pytest.approx(1.6) and row['n'] == 3 and row['verdict'] == 'helps'
    assert 0 < row['gain_diff'] < 2  # over the arm of vanilla distillation at published weights
    assert '## Over all shares of the data and schedules' in text
    assert f'| {EXITS} | 6 | +' in text and f'* gain: the same over {KD}\n' in text
    assert 'Row minus column' not in text
    assert len(pd.read_csv(tmp_path / 'runs.csv')) == 2 * 3 * 5

    other = report.write_report(tmp_path, [ALONE, KD, EXITS], None, None, 'c', f'{KD} @0.1')
    assert f'* gain: the same over {KD} @0.1\n' in other
    with pytest.raises(ValueError, match=r"no arm 'kd_other' to compare to: choose from fcn_small"):
        report.write_report(tmp_path, [ALONE, KD, EXITS], None, None, 'c', reference='kd_other')


def test_what_does_not_belong_together_is_refused(load_tool, tmp_path):
    write_study(tmp_path, seeds=2)
    read = load_tool('_compare_records').read_records
    assert read(tmp_path, ['unknown']).empty
    assert read(tmp_path, [EXITS, ALONE])['config'].unique().tolist() == [EXITS, ALONE]
    first = tmp_path / f'{ALONE}_None_1.0_1.0_seed0.json'
    shutil.copy(first, tmp_path / 'copy_seed0.json')
    with pytest.raises(ValueError, match=r'two results of fcn_small_set .* are of one seed'):
        read(tmp_path, [])
    record = json.loads(first.read_text())
    (tmp_path / 'copy_seed0.json').write_text(json.dumps(record | dict(seed=7, split='val')))
    with pytest.raises(ValueError, match=r'fcn_small_set .* differ in their split'):
        read(tmp_path, [])
    # another share of the data is another cell
    (tmp_path / 'copy_seed0.json').write_text(json.dumps(record | dict(fraction=0.5, split='val')))
    assert len(read(tmp_path, [])) == 7
    with pytest.raises(ValueError, match="no metric 'mAcc': choose from mIoU, aAcc"):
        read(tmp_path, [], 'mAcc')


def test_short_names(load_tool):
    short = load_tool('_compare_figures').short_names

    def names(*configs: str, arms=None) -> list[str]:
        table = pd.DataFrame(dict(arm=arms or configs, config=configs))
        return list(short(table, configs[0]).values())

    assert names(ALONE, KD, EXITS) == ['baseline', 'kd', 'kd-ds']
    assert names(ALONE, KD, KD, arms=[ALONE, KD, f'{KD} @0.1'])[1:] == [
        'kd_big',
        'kd_big @0.1',
    ]
    assert names('alone', 'taught') == ['alone', 'taught']


def test_page_says_what_was_found(load_tool, tmp_path):
    write_study(tmp_path)
    (tmp_path / 'pictures').mkdir()
    Image.new('RGB', (3000, 1000), 'green').save(tmp_path / 'pictures/<a>.png')
    load_tool('_compare_report').write_report(tmp_path, [ALONE, KD, EXITS], None, None, 'c & d')
    page = (tmp_path / 'report.html').read_text()
    body = page[page.index('<body>') :]
    assert re.search(
        r'Instead of the baseline: <b>helps</b>: kd \(\+\d\.\d\d points\), kd-ds', body
    )
    assert 'c &amp; d' in body and 'a &lt;small&gt; cpu' in body
    assert body.count('<h2') == 7 and 'Gain over' not in body
    assert '<figcaption>&lt;a&gt;.png</figcaption>' in body and 'data:image/jpeg' in body


@pytest.mark.skipif(CHROMIUM is None, reason='chromium is not installed')
def test_page_in_a_browser(load_tool, tmp_path):
    out = tmp_path / 'out'
    write_study(out, fractions=(0.1, 0.25, 1.0), schedules=(1.0, 2.0))
    (out / 'pictures').mkdir()
    Image.new('RGB', (3000, 1000), 'green').save(out / 'pictures/sample.png')
    load_tool('_compare_report').write_report(out, [ALONE, KD, EXITS], None, None, 'compare')
    page = out / 'report.html'
    drawn = """[...document.querySelectorAll('.plotly-graph-div')].map(
        plot => plot.querySelectorAll('svg.main-svg').length > 0
        && plot.querySelectorAll('.trace, .bars .point').length > 0)"""
    widest = """Math.max(...[...document.querySelectorAll('svg.main-svg, figure img')].map(
        part => part.getBoundingClientRect().right))"""
    with started(tmp_path / 'profile') as browser:
        for width in (1280, 390):
            browser.open(page, width)
            # scores, gains by data and by schedule, curves, cost, score against cost
            assert browser.ask(drawn) == [True] * 6
            # tables scroll by themselves, the page does not
            assert browser.ask('document.documentElement.scrollWidth') <= width
            assert browser.ask(widest) <= width
        assert browser.ask("document.querySelector('figure img').naturalWidth") == 1400
        assert browser.errors == []
        assert {url.partition(':')[0] for url in browser.requests} <= {'file', 'data', 'blob'}
        # it would have been noticed
        browser.ask("fetch('http://127.0.0.1:9/x').catch(() => console.error('not reached'))")
        assert any('not reached' in text for text in browser.errors)
