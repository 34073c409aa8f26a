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


@pytest.fixture
def config(tmp_path) -> Path:
    """A segmentor with terms, exits and Dropout on four pictures of noise, without augmentation."""
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
        randomness=dict(seed=0),
    )
    path = tmp_path / 'toy.py'
    Config(content).dump(str(path))
    return path


def test_the_tool_trains_in_two_processes_and_resumes_bit_for_bit(config, tmp_path):
    command = [ROOT / 'tools/train.py', config, '--launcher', 'pytorch', '--work-dir']
    launch(*command, tmp_path / 'whole')
    halfway = tmp_path / 'whole/iter_2.pth'
    states = torch.load(halfway, weights_only=False)['distill_state']['random']
    assert len(states) == 2
    assert not torch.equal(states[0]['torch'], states[1]['torch'])

    launch(*command, tmp_path / 'resumed', '--resume', halfway)
    whole, resumed = (
        torch.load(tmp_path / name / 'iter_4.pth', weights_only=False)
        for name in ('whole', 'resumed')
    )
    torch.testing.assert_close(whole['state_dict'], resumed['state_dict'], rtol=0, atol=0)
    parts = [content['distill_state']['parts'] for content in (whole, resumed)]
    torch.testing.assert_close(*parts, rtol=0, atol=0)
    assert not any('distillation' in name for name in whole['state_dict'])
