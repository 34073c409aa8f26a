"""Every way to write a model's config ends in one that builds in its own library's scope."""

import copy
import subprocess

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmkd.distillers.model_source import resolve_model

RETINANET = 'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'
PSPNET = 'mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py'


def error(*args):
    with pytest.raises(ValueError) as caught:
        resolve_model(*args)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def asks_for_weights(config):
    if isinstance(config, dict):
        return (
            config.get('type') == 'Pretrained'
            or bool(config.get('pretrained'))
            or any(map(asks_for_weights, config.values()))
        )
    return isinstance(config, (list, tuple)) and any(map(asks_for_weights, config))


@pytest.mark.parametrize(
    'config, scope, classes, first, file',
    [
        (RETINANET, 'mmdet', 80, 'person', 'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth'),
        (
            PSPNET,
            'mmseg',
            19,
            'road',
            'pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth',
        ),
    ],
)
def test_a_librarys_config(config, scope, classes, first, file):
    source = resolve_model(config)
    assert source.model['_scope_'] == scope
    assert len(source.classes) == classes and source.classes[0] == first
    assert source.published.startswith('https://') and source.published.endswith(f'/{file}')
    assert source.name == config.rpartition('/')[2][:-3]
    assert source.model['data_preprocessor']['mean'] == [123.675, 116.28, 103.53]
    assert not asks_for_weights(source.model)


def test_config_without_published_weights():
    assert resolve_model('mmdet::retinanet/retinanet_r50_fpn_90k_coco.py').published is None


def test_builds_whatever_the_current_scope_is():
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(
            resolve_model(
                'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', dict(bbox_head=dict(num_classes=3))
            ).model
        )
    assert type(model).__module__.startswith('mmdet.') and model.bbox_head.num_classes == 3


def test_absent_package_is_never_installed(monkeypatch):
    monkeypatch.setattr(subprocess, 'check_call', lambda *a, **k: pytest.fail('ran pip'))
    monkeypatch.setattr('mmengine.utils.install_package', lambda *a: pytest.fail('ran pip'))
    assert 'package mmnowhere, which is not installed' in error('mmnowhere::a/b.py')


def test_absent_file_offers_near_names(tmp_path):
    message = error('mmdet::retinanet/retinanet_r101_fpn_2y_coco.py')
    assert f'did you mean {RETINANET}' in message
    assert 'pspnet_r50-d8_4xb2-80k_cityscapes' in error(
        'mmseg::pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py'
    )
    (tmp_path / 'teacher.py').write_text('')
    assert f'did you mean {tmp_path}/teacher.py' in error(f'{tmp_path}/techer.py')
    assert 'correct the path' in error(f'{tmp_path}/qqqq.txt')


def test_a_local_file(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n"
        "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('RBC', 'WBC'))))\n"
        'model = dict(bbox_head=dict(num_classes=2))\n'
    )
    source = resolve_model(str(file))
    assert source.classes == ('RBC', 'WBC') and source.name == 'mine'
    assert source.model['_scope_'] == 'mmdet' and source.published is None
    assert source.model['bbox_head']['num_classes'] == 2
    file.write_text('a = 1')
    assert 'has no model' in error(str(file))
    file.write_text('model = = 1')
    assert 'cannot be read' in error(str(file))


def test_inline_dicts_take_the_current_scope():
    inline = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=18))
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert resolve_model(inline).model['_scope_'] == 'mmdet'
        assert resolve_model(dict(inline, _scope_='mmseg')).model['_scope_'] == 'mmseg'
        assert resolve_model(dict(model=inline, default_scope='mmseg')).model['_scope_'] == 'mmseg'
    source = resolve_model(inline)
    assert source.name == 'RetinaNet' and source.classes is None and source.published is None
    assert 'neither a type nor a model' in error(dict(backbone=1))


@pytest.mark.parametrize('wrap', [dict, Config])
def test_a_whole_config_with_its_preprocessor_and_wrapped_data(wrap, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text('a\nb\n')
    data = dict(type='CocoDataset', metainfo=dict(classes=str(names)))
    whole = wrap(
        dict(
            default_scope='mmdet',
            model=dict(type='RetinaNet'),
            data_preprocessor=dict(type='DetDataPreprocessor', mean=[1, 2, 3]),
            train_dataloader=dict(
                dataset=dict(
                    type='RepeatDataset',
                    times=2,
                    dataset=dict(type='ConcatDataset', datasets=[data, data]),
                )
            ),
        )
    )
    source = resolve_model(whole)
    assert source.classes == ('a', 'b')
    assert source.model['data_preprocessor']['mean'] == [1, 2, 3]
    assert 'data_preprocessor' not in whole['model']


def test_overrides_merge_and_delete_without_touching_their_source():
    config = dict(
        type='RetinaNet',
        backbone=dict(type='ResNet', depth=18, init_cfg=dict(type='Pretrained', checkpoint='x')),
        neck=dict(type='FPN', num_outs=5),
    )
    overrides = dict(backbone=dict(depth=50), neck=dict(_delete_=True, type='PAFPN'))
    before = copy.deepcopy((config, overrides))
    model = resolve_model(config, overrides).model
    assert model['backbone'] == dict(type='ResNet', depth=50, init_cfg=None)
    assert model['neck'] == dict(type='PAFPN')
    assert (config, overrides) == before
    model = resolve_model(RETINANET, dict(_delete_=True, type='Other')).model
    assert model == dict(type='Other', _scope_='mmdet')
    assert 'overrides do not fit' in error(config, dict(type=dict(a=1)))
    assert "no 'type'" in error(config, dict(_delete_=True, depth=3))


def test_nothing_in_the_model_fetches_weights():
    model = resolve_model(
        dict(
            type='mmdet.M',
            pretrained='open-mmlab://resnet50',
            init_cfg=[dict(type='Pretrained', checkpoint='x'), dict(type='Normal', layer='Conv2d')],
            heads=[dict(type='H', init_cfg=dict(type='mmengine.Pretrained', checkpoint='y'))],
            neck=dict(type='N', init_cfg=dict(type='Xavier', layer='Conv2d')),
        )
    ).model
    assert model['pretrained'] is None
    assert model['init_cfg'] == [dict(type='Normal', layer='Conv2d')]
    assert model['heads'][0]['init_cfg'] is None
    assert model['neck']['init_cfg']['type'] == 'Xavier'
