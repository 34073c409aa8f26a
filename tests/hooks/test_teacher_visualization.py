"""The teacher's picture lies beside the student's, and drawing it changes no training."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from mmkd.testing import (
    CLASSES,
    differences,
    run_state,
    toy_config,
    toy_distiller,
    train,
    write_toy_data,
)

PALETTE = [(9, 9, 9), (250, 0, 0), (0, 0, 250)]
STEPS = 2


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp('data'))


class Count(Hook):
    """Counts how often the teacher's backbone runs from the first step on."""

    calls = 0

    def before_train(self, runner):
        backbone = runner.model.distillation.teachers[None].model.backbone
        backbone.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1


class Run:
    """Two steps and a validation of 8 images, of which every fourth is drawn, if any is."""

    def __init__(self, kind: str, root, work_dir, draw: bool, **model) -> None:
        library = kind.capitalize()
        hook = dict(type=f'{library}VisualizationHook', draw=draw, interval=4)
        if kind == 'det':
            hook['score_thr'] = 0.0
        cfg = toy_config(
            kind, root, work_dir, toy_distiller(kind, **model), iters=STEPS, val_interval=STEPS,
            visualizer=dict(
                type=f'{library}LocalVisualizer', name=str(work_dir),
                vis_backends=[dict(type='LocalVisBackend')],
            ),
        )  # fmt: skip
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.metainfo['palette'] = PALETTE[: len(CLASSES[kind])]
        cfg.default_hooks.update(
            visualization=hook, teacher_visualization=dict(type='mmkd.TeacherVisualizationHook')
        )
        cfg.custom_hooks = [] if model else [dict(type=Count)]
        self.runner, _ = train(cfg)
        self.calls = sum(h.calls for h in self.runner.hooks if isinstance(h, Count))
        files = Path(work_dir).glob('*/vis_data/vis_image/*.png')
        self.pictures = {file.name: cv2.imread(str(file))[..., ::-1] for file in files}


# by the global step, those of images 2 and 6; mmdet's pictures have one name, mmseg's each its own
NAMES = dict(det=['val_img{}_4.png', 'val_img{}_8.png'],
             seg=['val_2.png{}_4.png', 'val_6.png{}_8.png'])  # fmt: skip


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_pictures_come_in_pairs_and_training_stays_the_same(kind, root, tmp_path):
    off = Run(kind, root, tmp_path / 'off', draw=False)
    on = Run(kind, root, tmp_path / 'on', draw=True)
    assert differences(run_state(off.runner), run_state(on.runner)) == []
    assert 'add_datasample' not in vars(on.runner.visualizer)  # as it was

    assert off.pictures == {}
    assert off.calls == STEPS
    assert on.calls == STEPS + 2  # of the validation only what is drawn
    names = [name.format(who) for name in NAMES[kind] for who in ('', '_teacher')]
    assert sorted(on.pictures) == sorted(names)
    for name in NAMES[kind]:
        student, teacher = (on.pictures[name.format(who)] for who in ('', '_teacher'))
        assert student.shape == teacher.shape == (64, 128, 3)
        assert np.array_equal(student[:, :64], teacher[:, :64])  # the labels
        assert not np.array_equal(student, teacher)

    if kind == 'seg':  # what mmdet draws is not the same to the last pixel each time
        check_picture(on.runner, root / 'images' / '6.png', on.pictures[names[-1]])


def check_picture(runner, file: Path, picture) -> None:
    """It is the prediction by the path that teaches, drawn by the run's visualizer."""
    item = runner.val_loop.dataloader.dataset[6]
    batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
    batch = runner.model.data_preprocessor(batch, False)
    teacher = runner.model.distillation.teachers[None]
    with torch.no_grad():
        (sample,) = teacher.predict(batch['inputs'], batch['data_samples'])
    image = cv2.imread(str(file))[..., ::-1]
    runner.visualizer.add_datasample('again', image, sample, draw_gt=False)
    assert np.array_equal(picture[:, 64:], runner.visualizer.get_image())


def test_a_student_that_is_its_own_teacher_is_refused(root, tmp_path):
    exits = dict(own=dict(type='SegExit', tap='backbone[1:]'))
    with pytest.raises(ValueError, match='no teacher that predicts'):
        Run('seg', root, tmp_path, draw=True, teacher='self', terms=None, exits=exits)
