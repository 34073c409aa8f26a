"""Wrong teaching does not start: a shipped config with one mistake ends in one line, unstarted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmkd.registry import build_in_scope

ROOT = Path(__file__).resolve().parents[1]
DETECTION = 'configs/demo/kd-ds_retinanet_digits.py'
SEGMENTATION = 'configs/demo/kd-ds_fcn_digits.py'
# The demo's students are their own teachers here: what they would teach does not matter.
STUDENTS = {
    DETECTION: 'configs/demo/retinanet_student_digits.py',
    SEGMENTATION: 'configs/demo/fcn_student_digits.py',
}
STUDENT = STUDENTS[DETECTION]
STOCK = Config.fromfile(ROOT / STUDENT).model.to_dict()
NAN, INF = float('nan'), float('inf')


class Payload:
    """A pickle that leaves a file behind when it is run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def _save_weights(config: str, path: Path) -> None:
    cfg = Config.fromfile(ROOT / STUDENTS[config])
    model = build_in_scope(dict(cfg.model, _scope_=cfg.default_scope), 'teacher')
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)


@pytest.fixture(scope='session')
def files(tmp_path_factory) -> Path:
    """Two pictures with a digit each, and teacher files good and bad."""
    folder = tmp_path_factory.mktemp('bad_input')
    (folder / 'images/train').mkdir(parents=True)
    (folder / 'annotations').mkdir()
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(2):
        picture = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f'images/train/{i}.png'), picture)
        images.append(dict(id=i, file_name=f'{i}.png', width=64, height=64))
        box = dict(bbox=[8, 8, 30, 30], area=900, iscrowd=0)
        boxes.append(dict(id=i + 1, image_id=i, category_id=i, **box))
    categories = [dict(id=i, name=str(i)) for i in range(10)]
    coco = dict(images=images, annotations=boxes, categories=categories)
    (folder / 'annotations/train.json').write_text(json.dumps(coco))

    _save_weights(DETECTION, folder / 'det.pth')
    _save_weights(SEGMENTATION, folder / 'seg.pth')
    whole = (folder / 'det.pth').read_bytes()
    (folder / 'truncated.pth').write_bytes(whole[: len(whole) // 2])
    state = torch.load(folder / 'det.pth', weights_only=True)['state_dict']
    partial = {k: v for k, v in state.items() if not k.startswith('bbox_head.retina')}
    torch.save(dict(state_dict=partial), folder / 'partial.pth')
    torch.save(dict(state_dict=Payload(folder / 'was_run')), folder / 'code.pth')
    return folder


def _good(config: str, files: Path, work_dir: Path) -> dict:
    """Options that make a shipped config run on the toy files."""
    weights = dict([(DETECTION, 'det.pth'), (SEGMENTATION, 'seg.pth')])[config]
    return {
        'work_dir': str(work_dir),
        'model.teacher.config': STUDENTS[config],
        'model.teacher.checkpoint': str(files / weights),
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.data_root': str(files),
        'train_cfg.max_iters': 1,
        'val_dataloader': None,
        'val_evaluator': None,
        'val_cfg': None,
    }


@pytest.fixture
def mistake(files, tmp_path, monkeypatch):
    """A function that trains a shipped config with some keys changed; what the error says."""
    monkeypatch.chdir(ROOT)

    def train(config: str, changes: dict) -> str:
        cfg = Config.fromfile(config)
        options = _good(config, files, tmp_path)
        for key, value in changes.items():
            text = isinstance(value, str)
            options[key] = value.replace('FILES', str(files)) if text else value
        cfg.merge_from_dict(options)
        with pytest.raises(ValueError) as caught:
            Runner.from_cfg(cfg).train()
        assert not list(tmp_path.rglob('*.pth'))
        return str(caught.value)

    return train


def feature(**keys) -> dict:
    """A further term beside the config's own."""
    return {'model.terms.extra': dict(type='FeatureKD', **keys)}


def dense(**keys) -> dict:
    """A further exit beside the config's own."""
    return {'model.exits.extra': dict(type='DenseExit', **keys)}


TEACHER = 'model.teacher.'
LETTERS = tuple('abcdefghij')
ADDRESSES = dict(
    misspelt=(feature(tap='nekc'), "term 'extra', student", "'nekc'", 'nearest names: neck'),
    misspelt_in_the_teacher=(
        feature(tap='neck[0]', teacher_tap='neck.fpn_conv.0'),
        *("term 'extra', teacher", "'neck.fpn_conv.0'", 'neck.fpn_convs.0'),
    ),
    misspelt_in_an_exit=(dense(tap='backbone.layr2'), "exit 'extra'", 'backbone.layer2'),
    no_address=(feature(tap='neck[1'), "term 'extra'", "'neck[1'", 'write path, path[i]'),
    no_text=(feature(tap=3), "term 'extra'", 'tap=3', 'an address or a list'),
    module_list=(feature(tap='neck.fpn_convs'), "'extra'", 'ModuleList', 'neck.fpn_convs.0'),
    outside=(feature(tap='neck[7]'), "term 'extra'", "'neck[7]'", 'outside', '3 values'),
    level_counts=(
        feature(tap='neck', teacher_tap='neck[0:2]'),
        *("term 'extra'", 'student gives 3', 'the teacher 2', 'with [i:j]'),
    ),
    no_whole_ratio=(
        {
            **feature(tap='backbone[2]'),
            TEACHER + 'overrides': dict(backbone=dict(strides=(1, 2, 2, 3))),
        },
        *("term 'extra'", '(2, 64, 8, 8)', '(2, 64, 6, 6)', 'whole', 'tap stages'),
    ),
    no_adapter=(
        feature(tap='backbone[0]', teacher_tap='backbone[1]', adapter=None),
        *("term 'extra'", '(2, 16, 32, 32)', '(2, 32, 16, 16)', "adapter='auto'"),
    ),
    frozen_stage=(
        {
            'model.student.backbone.frozen_stages': 2,
            **{f'model.exits.{name}': None for name in ('backbone', 'neck')},
            **dense(tap='backbone'),
        },
        *("exit 'extra'", "'backbone'", 'frozen', 'tap a trained stage'),
    ),
    wrong_strides=(dense(tap='backbone[1:]'), "exit 'extra'", '[16, 32]', '[8, 16, 32]', 'tap'),
)  # fmt: skip
FILES = dict(
    missing=({TEACHER + 'checkpoint': 'gone.pth'}, "'gone.pth'", 'does not exist', 'correct'),
    truncated=({TEACHER + 'checkpoint': 'FILES/truncated.pth'}, 'truncated.pth', 'get it again'),
    code=({TEACHER + 'checkpoint': 'FILES/code.pth'}, 'code.pth', 'holds code', 'safetensors'),
    partial=(
        {TEACHER + 'checkpoint': 'FILES/partial.pth'},
        *('teacher', 'partial.pth', '4 of ', 'bbox_head.retina_cls.weight', 'give the config'),
    ),
    other_architecture=(
        {TEACHER + 'checkpoint': 'FILES/seg.pth'},
        *('teacher (retinanet_student_digits)', 'seg.pth', 'missing', 'neck', 'give the config'),
    ),
    other_width=(
        {TEACHER + 'config': 'configs/demo/retinanet_teacher_digits.py'},
        *('teacher (retinanet_teacher_digits)', 'another shape', 'in the file', 'give the config'),
    ),
    student_checkpoint=(
        {'model.student_checkpoint': 'FILES/seg.pth'},
        *('student_checkpoint', 'seg.pth', 'missing'),
    ),
)  # fmt: skip
CLASSES = dict(
    no_overlap=({TEACHER + 'classes': LETTERS}, 'teacher', '0, 1', 'a, b', 'teacher.classes'),
    wrong_count=({TEACHER + 'classes': ('0', '1')}, 'teacher', '10 classes', '2 names', 'give'),
    unknown=(
        {TEACHER + 'config': dict(STOCK, _delete_=True)},
        *("teacher 'RetinaNet'", 'nowhere', "'same'"),
    ),
    no_names_in_the_data=(
        {
            'train_dataloader.dataset.metainfo': dict(classes=()),
            'train_dataloader.dataset.lazy_init': True,
        },
        *('training set', 'metainfo=dict(classes='),
    ),
)  # fmt: skip
PAIRS = dict(
    anchors=(
        {TEACHER + 'overrides': dict(bbox_head=dict(anchor_generator=dict(octave_base_scale=3)))},
        *("term 'kd'", 'priors differ', 'student', 'teacher', 'FeatureKD'),
    ),
    coders=(
        {TEACHER + 'overrides': dict(bbox_head=dict(bbox_coder=dict(target_stds=[0.1] * 4)))},
        *("term 'kd'", 'box coders differ', '(1.0, 1.0', '(0.1, 0.1', 'FeatureKD'),
    ),
)  # fmt: skip
TERMS = dict(
    unknown_type=({'model.terms.kd.type': 'LogitKDD'}, "term 'kd'", "'LogitKDD'", 'LogitKD'),
    no_type=({'model.terms.extra': dict(tap='neck')}, "term 'extra'", 'with a type'),
    a_loss=(
        {'model.terms.extra': dict(type='PKDLoss', tap='neck')},
        *("term 'extra'", "'PKDLoss' is not a type of term", 'FeatureKD'),
    ),
    an_exit=({'model.terms.extra': dict(type='DenseExit', tap='neck')}, "'extra'", 'LogitKD'),
    unknown_argument=(feature(tap='neck', wieght=2), "term 'extra'", "'wieght'", 'weight,'),
    unknown_of_logit_kd=({'model.terms.kd.tap': 'neck'}, "term 'kd'", "'tap'", 'loss_bbox'),
    unknown_of_an_exit=(
        {'model.exits.neck.stacked_conv': 2},
        *("exit 'neck'", "'stacked_conv'", 'stacked_convs', 'gt,'),
    ),
    unknown_loss=(feature(tap='neck', loss=dict(type='PKDLos')), "'extra'", "'PKDLos'", 'PKDLoss'),
    unknown_argument_of_a_loss=(
        feature(tap='neck', loss=dict(type='ChannelWiseDivergence', T=4)),
        *("term 'extra'", "'ChannelWiseDivergence'", "'T'", 'it has tau'),
    ),
    loss_of_another_family=(
        {'model.terms.kd.loss_dfl': dict(type='LDLoss')},
        *("term 'kd'", "'loss_dfl'", 'loss_bbox, loss_cls'),
    ),
    wrong_value_in_a_loss=(
        feature(tap='neck', loss=dict(type='ChannelWiseDivergence', tau=-1)),
        *("term 'extra'", 'tau=-1', 'positive'),
    ),
    unknown_adapter=(
        feature(tap='neck', adapter=dict(type='Projct')), "'extra'", "'Projct'", 'Project',
    ),
    weight_nan=({'model.terms.kd.weight': NAN}, "term 'kd'", 'weight=nan', '>= 0'),
    weight_infinite=({'model.terms.kd.weight': INF}, "term 'kd'", 'weight=inf', 'finite'),
    weight_negative=({'model.exits.neck.weight': -0.1}, "exit 'neck'", 'weight=-0.1', '>= 0'),
    weight_text=({'model.terms.kd.weight': '2x'}, "term 'kd'", "weight='2x'", 'number'),
    weight_list=({'model.terms.kd.weight': [1, 2]}, "term 'kd'", '[1, 2]', 'one number'),
    weight_count=(feature(tap='neck', weight=[1, 2]), "'extra'", '2 weights', '3 tensors'),
    all_switches_off=(dense(tap='neck', gt=0, kd=0), "exit 'extra'", 'all 0', 'switch one on'),
    schedule_unknown=(
        {'model.terms.kd.schedule': dict(begn=5)}, "term 'kd'", "'begn'", 'begin=, warmup=',
    ),
    schedule_of_an_exit=(
        {'model.exits.neck.schedule': dict(warm_up=5)}, "exit 'neck'", "'warm_up'", 'warmup=',
    ),
    schedule_no_dict=({'model.terms.kd.schedule': 100}, "term 'kd'", '100', 'begin=, warmup='),
    schedule_negative=(
        {'model.terms.kd.schedule': dict(warmup=-5)}, "term 'kd'", 'warmup=-5', '>= 0',
    ),
    schedule_backwards=(
        {'model.terms.kd.schedule': dict(begin=9, end=5)}, "'kd'", 'end=5', 'after begin=9',
    ),
    name_with_loss=(
        {'model.terms.kd_loss': dict(type='LogitKD')}, "term 'kd_loss'", "'loss'", 'rename',
    ),
    name_twice=({'model.terms.neck': dict(type='LogitKD')}, "exit 'neck'", 'taken', 'rename'),
    list_of_terms=(
        {'model.terms': [dict(type='LogitKD')]}, 'terms', 'list', 'terms=dict(name=dict(type=',
    ),
    seg_exit=(
        {'model.exits.extra': dict(type='SegExit', tap='neck')},
        *("exit 'extra'", 'SegExit', 'DenseExit'),
    ),
)  # fmt: skip
TEACHERS = dict(
    none=({'model.teacher': None}, "term 'kd'", 'there is none', 'teacher=dict(...)'),
    none_for_an_exit=(
        {'model.teacher': None, 'model.terms': None},
        *("exit 'backbone'", 'there is none', 'gt=1, kd=0'),
    ),
    a_path=({'model.teacher': 'a.pth'}, "teacher='a.pth'", 'dict(config=..., checkpoint=...)'),
    unknown_key=({TEACHER + 'chekpoint': 'a.pth'}, 'teacher', "'chekpoint'", 'checkpoint'),
    no_checkpoint=(
        {'model.teacher': dict(_delete_=True, config=STUDENT)},
        *('teacher: checkpoint= is missing', 'checkpoint=None'),
    ),
    no_config=(
        {TEACHER + 'config': 'configs/demo/retinanet_techer_digits.py'},
        *('retinanet_techer_digits.py', 'did you mean', 'retinanet_teacher_digits.py'),
    ),
    name_of_the_only_one=({'model.terms.kd.teacher': 'big'}, "'kd'", "'big'", 'drop it'),
    nobody=(
        {'model.teacher': dict(_delete_=True, big=dict(config=STUDENT, checkpoint=None))},
        *("term 'kd'", 'teacher=None', 'big', 'name one'),
    ),
    inherits_nothing=({'model.inherit': ['nekc']}, 'inherit', "'nekc'", 'student'),
)  # fmt: skip
DISTILLER = dict(
    unknown_argument=({'model.term': dict()}, 'Distiller', "'term'", 'terms, exits'),
    no_student=({'model.student': None}, 'student=None', 'student=_base_.model'),
    unknown_student=({'model.student.type': 'RetinaNett'}, 'student', 'RetinaNett'),
    no_hook=(
        {'default_hooks.distill': dict(_delete_=True, type='IterTimerHook')},
        *('DistillHook is missing', "default_hooks = dict(distill=dict(type='mmkd.DistillHook'))"),
    ),
    hook_alone=(
        {'model': dict(STOCK, _delete_=True)},
        *('DistillHook', "model.type='mmkd.Distiller'"),
    ),
)  # fmt: skip
SEG = dict(
    never_fires=(feature(tap='decode_head'), "'extra'", "'decode_head'", 'never fires', 'LogitKD'),
    name_of_the_students_log=(
        {'model.terms.decode': dict(type='LogitKD')},
        *("term 'decode'", "'decode.loss_ce'", 'another name'),
    ),
    dense_exit=(dense(tap='backbone'), "exit 'extra'", 'DenseExit', 'RetinaNet', 'EncoderDecoder'),
    head_taught_twice=(
        {'model.exits.extra': dict(type='SegExit', tap='decode_head')},
        *("exit 'extra'", "'decode_head'", 'gt=0, kd=1, feat=0'),
    ),
    weight_count=(
        {'model.exits.backbone.weight': [0.1, 0.2]}, "'backbone'", '2 weights', '3 tensors',
    ),
    one_binary=(
        {
            TEACHER + 'checkpoint': None,
            TEACHER + 'overrides': dict(
                decode_head=dict(
                    num_classes=2, out_channels=1, threshold=0.5,
                    loss_decode=dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=True),
                )
            ),
        },
        *("term 'kd'", 'out_channels=11', 'out_channels=1', 'FeatureKD'),
    ),
)  # fmt: skip


def _cases():
    for group in (ADDRESSES, FILES, CLASSES, PAIRS, TERMS, TEACHERS, DISTILLER):
        for name, case in group.items():
            yield pytest.param(DETECTION, *case[:1], case[1:], id=f'det-{name}')
    for name, case in SEG.items():
        yield pytest.param(SEGMENTATION, *case[:1], case[1:], id=f'seg-{name}')


@pytest.mark.parametrize(('config', 'changes', 'words'), _cases())
def test_one_line_names_the_mistake_and_the_fix(config, changes, words, mistake, files):
    message = mistake(config, changes)
    assert '\n' not in message
    assert [word for word in words if word not in message] == [], message
    assert len(message) < 600
    assert not (files / 'was_run').exists()


def test_the_config_runs_without_a_mistake(files, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = Config.fromfile(DETECTION)
    cfg.merge_from_dict(_good(DETECTION, files, tmp_path))
    Runner.from_cfg(cfg).train()
    assert (tmp_path / 'iter_1.pth').is_file()


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ('model.exits.neck.tap=nekc', ("exit 'neck'", "'nekc'", 'nearest names: neck')),
        ('model.teacher.classes=a,b,c,d,e,f,g,h,i,j', ('no class in common', 'teacher.classes')),
        ('default_hooks.distill.type=IterTimerHook', ('DistillHook is missing', 'default_hooks')),
    ],
    ids=['at_build', 'before_the_run', 'at_the_first_step'],
)
def test_tool_ends_with_that_line(option, words, files, tmp_path):
    options = [f'{k}={v}' for k, v in _good(DETECTION, files, tmp_path / 'run').items()]
    command = [sys.executable, 'tools/train.py', DETECTION, '--cfg-options', *options, option]
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 1, done.stderr[-3000:]
    last = done.stderr.splitlines()[-1]
    assert last.startswith('mmkd: error: ')
    assert [word for word in words if word not in last] == [], last
    assert 'Traceback' not in done.stderr
    assert not list(tmp_path.rglob('*.pth'))
