"""tools/draw_distillation.py: what the picture says is what the built model has."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd.testing import EXITS, TERMS, toy_distiller

ROOT = Path(__file__).resolve().parents[2]


def words(svg: Path) -> list[str]:
    """Every line of text in a drawing."""
    return re.findall(r'<text[^>]*>([^<]+)</text>', svg.read_text().replace('&gt;', '>'))


@pytest.fixture
def draw(load_tool, tmp_path):
    """A function that draws a config file, with options, and returns the text of the picture."""
    tool = load_tool('draw_distillation')

    def run(config, *options) -> list[str]:
        out = tmp_path / 'picture.svg'
        args = [str(config), '--out', str(out)]
        tool.main(tool.parse_args([*args, '--cfg-options', *options] if options else args))
        return words(out)

    return run


@pytest.fixture
def toy(tmp_path):
    """A function that writes the config of a toy distillation."""

    def write(kind: str, **keys) -> Path:
        scope = dict(det='mmdet', seg='mmseg')[kind]
        model = toy_distiller(kind, **keys)
        path = tmp_path / f'{kind}.py'
        path.write_text(f'default_scope = {scope!r}\nmodel = {Config(model).to_dict()!r}\n')
        return path

    return write


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_terms_exits_taps_and_weights_are_named(kind, draw, toy):
    said = draw(toy(kind), 'model.terms.feature.weight=3.5', 'model.exits.stages.kd=0.25')
    tap, stages = TERMS[kind]['feature']['tap'], EXITS[kind]['stages']['tap']
    assert said.count(tap) == 2  # in the student and in the teacher
    assert {'kd', 'LogitKD', 'feature', 'FeatureKD', 'PKDLoss', 'weight 3.5', 'stages'} <= {*said}
    assert {stages, 'gt 0.5, kd 0.25', 'warm-up 3', 'labels'} <= {*said}
    assert said.count('final predictions') >= 4  # module, both ends of `kd`, what teaches the exit
    assert any(line.startswith('student: ') for line in said)


def test_what_is_off_is_not_drawn_and_a_student_alone_is_refused(draw, toy, write_config):
    said = draw(toy('seg'), 'model.terms.feature.weight=0')
    assert 'FeatureKD' not in said and 'LogitKD' in said
    with pytest.raises(ValueError, match='has no student'):
        draw(write_config('seg'))


def test_no_weights_are_read(draw, toy):
    path = toy('det')
    assert draw(path) == draw(path, 'model.teacher.checkpoint=nowhere.pth')


@pytest.mark.parametrize('name', ['kd-ds_retinanet_digits', 'kd-ds_fcn_digits'])
def test_the_pictures_of_the_docs_are_what_the_configs_are_now(name, draw):
    shown = words(ROOT / f'docs/figures/{name}.svg')
    assert shown == draw(ROOT / f'configs/demo/{name}.py')
