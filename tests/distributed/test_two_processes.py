"""Two processes teach what one process teaches on the concatenated batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import worker
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]


def launch(*command) -> None:
    """Runs a script in two processes; a failure shows what it printed."""
    settings = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONPATH=str(ROOT))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        place = ['--master_addr', '127.0.0.1', '--master_port', free.getsockname()[1]]
    start = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', *place]
    command = [str(word) for word in (*start, *command)]
    environment = {**os.environ, **settings}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = [line for line in done.stderr.splitlines() if line.startswith('[rank0]')]
    assert done.returncode == 0, '\n'.join(said) or done.stderr[-4000:]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('ranks')
    launch(worker.__file__, folder)
    return folder


@pytest.fixture(scope='module')
def two_ranks(folder) -> dict:
    return torch.load(folder / 'gradients.pth')


@pytest.fixture(scope='module')
def runs(folder) -> dict:
    return json.loads((folder / 'runs.json').read_text())


@pytest.mark.parametrize('kind', worker.MODEL_KINDS)
def test_gradients_equal_one_process_on_the_concatenated_batch(kind, two_ranks):
    model = worker.build(kind)
    for layout in worker.LAYOUTS:
        alone = worker.gradients(kind, layout, slice(None), model)
        together = two_ranks[f'{kind}-{layout}']
        assert alone.keys() == together.keys()
        for part, gradients in alone.items():
            assert gradients.keys() == together[part].keys()
            largest = max(float(g.abs().max()) for g in gradients.values())
            assert largest > 1e-5, f'{part} teaches nothing, so nothing is compared'
            for name, gradient in gradients.items():
                torch.testing.assert_close(
                    together[part][name],
                    gradient,
                    rtol=0,
                    atol=1e-6 * max(1.0, largest),
                    msg=lambda text, at=f'{layout}, {part}, {name}': f'{at}: {text}',
                )


@pytest.mark.parametrize('kind', ['retinanet', 'fcn'])
@pytest.mark.parametrize(
    ('switch', 'teaches'),
    [('on', [1, 1, 1, 1]), ('off', [0] * 4), ('ends', [1, 1, 0, 0]), ('begins', [0, 0, 1, 1])],
)
def test_no_unused_parameters_whatever_is_switched_off(kind, switch, teaches, runs):
    run = runs[f'{kind}-{switch}']
    assert [value > 0 for value in run['added']] == [bool(x) for x in teaches]
    assert run['apart'] == 0.0
    assert run['extra'] > 0


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory) -> Path:
    """Four steps of a segmentor with Dropout in an exit, on noise without augmentation."""
    tmp_path = tmp_path_factory.mktemp('tool')
    rng = np.random.default_rng(0)
    for folder, shape, top in (('images', (64, 64, 3), 256), ('masks', (64, 64), 3)):
        (tmp_path / folder).mkdir()
        for i in range(4):
            picture = rng.integers(0, top, shape).astype(np.uint8)
            cv2.imwrite(str(tmp_path / folder / f'{i}.png'), picture)
    steps = [dict(type=kind) for kind in ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')]
    dataset = dict(
        type='BaseSegDataset', data_root=str(tmp_path), img_suffix='.png', seg_map_suffix='.png',
        data_prefix=dict(img_path='images', seg_map_path='masks'), pipeline=steps,
        metainfo=dict(classes=worker.CLASSES, palette=[[0, 0, 0]] * 3),
    )  # fmt: skip
    loader = dict(sampler=dict(type='InfiniteSampler', shuffle=True), dataset=dataset)
    model = worker.config('fcn')
    model['exits']['early']['dropout'] = 0.5
    content = dict(
        default_scope='mmseg',
        model=model,
        train_dataloader=dict(batch_size=1, num_workers=0, **loader),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
            distill=dict(type='mmkd.DistillHook', interval=2),
        ),
        randomness=dict(seed=0, diff_rank_seed=True),
    )
    Config(content).dump(str(tmp_path / 'toy.py'))
    train(tmp_path, 'whole')
    return tmp_path


def train(folder: Path, name: str, *options) -> None:
    """Runs the tool on the config in a folder."""
    command = [ROOT / 'tools/train.py', folder / 'toy.py', '--launcher', 'pytorch']
    launch(*command, '--work-dir', folder / name, *options)


def read(path: Path) -> dict:
    """A checkpoint of this run."""
    return torch.load(path, weights_only=False)


def test_the_tool_saves_the_random_states_of_both_ranks(whole_run):
    saved = read(whole_run / 'whole/iter_2.pth')
    states = saved['distill_state']['random']
    assert len(states) == 2
    assert not torch.equal(states[0]['torch'], states[1]['torch'])
    assert not any('distillation' in name for name in saved['state_dict'])


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(whole_run):
    train(whole_run, 'resumed', '--resume', whole_run / 'whole/iter_2.pth')
    whole, resumed = (read(whole_run / name / 'iter_4.pth') for name in ('whole', 'resumed'))
    torch.testing.assert_close(whole['state_dict'], resumed['state_dict'], rtol=0, atol=0)
    parts = [saved['distill_state']['parts'] for saved in (whole, resumed)]
    torch.testing.assert_close(*parts, rtol=0, atol=0)
    halfway = read(whole_run / 'whole/iter_2.pth')['state_dict']
    assert any(not torch.equal(halfway[name], x) for name, x in whole['state_dict'].items())
