"""What comes from `_base_ = 'mmkd::...'` is built in the library that it belongs to."""

import pytest
from mmengine.config import Config
from mmengine.registry import (
    DATA_SAMPLERS,
    METRICS,
    MODELS,
    TRANSFORMS,
    VISUALIZERS,
    DefaultScope,
    init_default_scope,
)

import mmkd  # noqa: F401  makes `mmkd::` known to config files
from mmkd.registry import build_in_scope, library_of


@pytest.mark.parametrize('library, name', [('mmdet', 'retinanet'), ('mmseg', 'fcn')])
def test_everything_of_a_base_is_built_in_the_library_around(library, name, tmp_path):
    (tmp_path / 'mine.py').write_text(f"_base_ = 'mmkd::demo/{name}_student_digits.py'")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model._scope_ == cfg.visualizer._scope_ == 'mmkd'
    init_default_scope(library)
    found = [MODELS.build(cfg.model), VISUALIZERS.build(dict(cfg.visualizer, name='toy'))]
    for step in cfg.train_dataloader.dataset.pipeline[1:]:  # the first is mmcv's
        found.append(TRANSFORMS.build(dict(step, _scope_='mmkd')))
    assert {type(x).__module__.partition('.')[0] for x in found} == {library}
    sampler = DATA_SAMPLERS.build(dict(cfg.train_dataloader.sampler, dataset=[1]))
    assert type(sampler).__module__.startswith('mmengine.')
    metric = METRICS.get(f'mmkd.{"CocoMetric" if library == "mmdet" else "IoUMetric"}')
    assert metric.__module__.startswith(f'{library}.')
    assert DefaultScope.get_current_instance().scope_name == library


def test_a_model_without_any_scope_is_built_in_the_only_library_that_has_it():
    assert library_of(dict(type='RetinaNet'), 'student') == 'mmdet'
    assert library_of(dict(type='mmdet.RetinaNet', _scope_='mmkd'), 'student') == 'mmdet'
    assert library_of(dict(type='EncoderDecoder', _scope_=None), 'student') == 'mmseg'
    for kind in ('ResNet', 'NoSuchNet'):  # in both, in none
        with pytest.raises(ValueError, match=f"student: in which library is '{kind}'?"):
            build_in_scope(dict(type=kind), 'student')


def test_the_scope_around_decides_before_the_type_does():
    init_default_scope('mmseg')
    assert library_of(dict(type='RetinaNet'), 'student') == 'mmseg'
    assert library_of(dict(type='RetinaNet', _scope_='mmdet'), 'student') == 'mmdet'
    with DefaultScope.overwrite_default_scope('mmkd'):
        assert library_of(dict(type='ResNet'), 'student') == 'mmseg'
