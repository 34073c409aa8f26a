"""A weight's course over training."""

import pytest

from mmkd.terms.schedule import Schedule


def course(*iterations, **keys):
    schedule = Schedule(**keys)
    return [schedule(i) for i in iterations]


def test_default_is_constant():
    assert course(0, 1, 10**6) == [1.0, 1.0, 1.0]


def test_begins_suddenly_without_warmup():
    assert course(2, 3, 4, begin=3) == [0.0, 1.0, 1.0]


def test_warms_up_from_its_begin():
    assert course(9, 10, 11, 13, 14, begin=10, warmup=4) == [0.0, 0.25, 0.5, 1.0, 1.0]


def test_ends_suddenly_without_fade():
    assert course(4, 5, 6, end=5) == [1.0, 0.0, 0.0]


def test_fades_over_fade_iterations_from_its_end():
    assert course(4, 5, 6, 8, 9, 50, end=5, fade=4) == [1.0, 1.0, 0.75, 0.25, 0.0, 0.0]


def test_end_within_the_warmup_multiplies_both():
    assert course(5, 6, warmup=10, end=5, fade=2) == pytest.approx([0.6, 0.35])


@pytest.mark.parametrize(
    'keys, named',
    [
        (dict(begin=-1), 'begin=-1'),
        (dict(warmup=0.5), 'warmup=0.5'),
        (dict(fade=-2), 'fade=-2'),
        (dict(begin=5, end=5), 'end=5'),
        (dict(end='last'), "end='last'"),
    ],
)
def test_nonsense_is_one_line(keys, named):
    with pytest.raises(ValueError, match=named) as error:
        Schedule(**keys)
    assert '\n' not in str(error.value)


def test_reads_in_the_summary():
    assert str(Schedule()) == 'constant'
    assert str(Schedule(3, 4, 90, 5)) == 'from 3, warm-up 4, until 90, fading 5'
