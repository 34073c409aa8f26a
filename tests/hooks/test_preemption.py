"""A signal: saved at the step begun, left with exit code 85, resumed bit for bit."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import two_ranks
from mmengine.config import Config
from mmengine.runner import Runner
from two_ranks import CountHook, SignalHook

from mmkd.hooks import PreemptionHook
from mmkd.hooks.distill import student_config
from mmkd.testing import (
    differences,
    run_state,
    toy_config,
    toy_distiller,
    toy_model,
    train,
    write_toy_data,
)

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[2]
STEPS = 4  # of an epoch of the toy data


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp('data'))


def config(root, work_dir, kind='seg', by_epoch=False, save=100, model=None, **changes):
    settings = dict(dict(iters=3 if by_epoch else 7, ema=dict(update_buffers=True)), **changes)
    return toy_config(
        kind, root, work_dir, model or toy_distiller(kind), flip=False, by_epoch=by_epoch,
        save_interval=save, **settings,
    )  # fmt: skip


def preempted(cfg, step, number=signal.SIGUSR1, grace=60.0, code=85) -> tuple[Runner, int]:
    """Trains until a signal in a step ends the run; the runner, and the steps it did."""
    runner = Runner.from_cfg(cfg)
    hook, count = PreemptionHook(grace), CountHook()
    for extra in (hook, count, SignalHook(step, number)):
        runner.register_hook(extra)
    if code is None:
        runner.train()
    else:
        with pytest.raises(SystemExit) as leaving:
            runner.train()
        assert leaving.value.code == code
        hook.after_train(runner)  # no process ends here, so the signals are given back by hand
    return runner, count.steps


def resume(cfg, folder) -> tuple[Runner, list]:
    torch.manual_seed(99)  # a new process would be elsewhere in its random stream, too
    file = (Path(folder) / 'last_checkpoint').read_text()
    cfg.merge_from_dict(dict(load_from=file, resume=True))
    return train(cfg)


@pytest.mark.parametrize(('kind', 'number'), [('seg', signal.SIGUSR1), ('det', signal.SIGTERM)])
def test_iterations_stop_at_the_step_begun_and_resume_exactly(kind, number, root, tmp_path):
    """Dropout is on and no save is due at step 3, so the random states have to come along."""
    whole, losses = train(config(root, tmp_path / 'whole', kind))
    _, steps = preempted(config(root, tmp_path / 'stopped', kind), 3, number)
    assert steps == 3
    assert (tmp_path / 'stopped/last_checkpoint').read_text().endswith('iter_3.pth')
    resumed, rest = resume(config(root, tmp_path / 'resumed', kind), tmp_path / 'stopped')
    assert [differences(a, b) for a, b in zip(losses[3:], rest, strict=True)] == [[]] * 4
    assert differences(run_state(whole), run_state(resumed)) == []


def test_a_stock_student_is_saved_too(root, tmp_path):
    """Without the random states that DistillHook keeps, exact where nothing is drawn."""
    model = toy_model('det')
    whole, _ = train(config(root, tmp_path / 'whole', 'det', model=model))
    preempted(config(root, tmp_path / 'stopped', 'det', model=model), 3)
    resumed, _ = resume(config(root, tmp_path / 'again', 'det', model=model), tmp_path / 'stopped')
    assert differences(run_state(whole), run_state(resumed)) == []


def test_a_validation_that_is_due_does_not_keep_the_run(root, tmp_path):
    whole, _ = train(config(root, tmp_path / 'whole', val_interval=3))
    runner, steps = preempted(config(root, tmp_path / 'stopped', val_interval=3), 3)
    assert steps == 3
    assert 'val/mIoU' not in runner.message_hub.log_scalars
    resumed, _ = resume(config(root, tmp_path / 'resumed', val_interval=3), tmp_path / 'stopped')
    assert differences(run_state(whole), run_state(resumed)) == []


def test_accumulated_gradients_are_used_first(root, tmp_path):
    """No checkpoint holds them: the run leaves after the step that moves the weights."""
    wrapper = dict(accumulative_counts=3, optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
    settings = dict(optim_wrapper=wrapper, iters=9)
    whole, _ = train(config(root, tmp_path / 'whole', **settings))
    _, steps = preempted(config(root, tmp_path / 'stopped', **settings), 4)
    assert steps == 6
    resumed, _ = resume(config(root, tmp_path / 'resumed', **settings), tmp_path / 'stopped')
    assert differences(run_state(whole), run_state(resumed)) == []


def test_an_epoch_whose_rest_is_short_is_finished(root, tmp_path):
    whole, _ = train(config(root, tmp_path / 'whole', by_epoch=True))
    _, steps = preempted(config(root, tmp_path / 'stopped', by_epoch=True), STEPS + 2)
    assert steps == 2 * STEPS
    assert (tmp_path / 'stopped/last_checkpoint').read_text().endswith('epoch_2.pth')
    resumed, rest = resume(config(root, tmp_path / 'again', by_epoch=True), tmp_path / 'stopped')
    assert len(rest) == STEPS
    assert differences(run_state(whole), run_state(resumed)) == []


@pytest.mark.parametrize(('step', 'done'), [(STEPS + 2, STEPS + 2), (2 * STEPS, 2 * STEPS)])
def test_an_epoch_whose_rest_is_long_is_repeated(step, done, root, tmp_path):
    """Left in its middle, or with its last step; what was saved is the end of an epoch."""
    whole, _ = train(config(root, tmp_path / 'whole', by_epoch=True))
    cfg = config(root, tmp_path / 'stopped', by_epoch=True, save=1)
    _, steps = preempted(cfg, step, grace=0.0)
    assert steps == done
    file = (tmp_path / 'stopped/last_checkpoint').read_text()
    assert file.endswith(f'epoch_{done // STEPS}.pth')
    resumed, rest = resume(config(root, tmp_path / 'again', by_epoch=True), tmp_path / 'stopped')
    assert len(rest) == (3 - done // STEPS) * STEPS
    assert differences(run_state(whole), run_state(resumed)) == []


@pytest.mark.parametrize(('by_epoch', 'step'), [(False, 7), (True, 3 * STEPS - 1)])
def test_a_run_in_its_last_step_or_epoch_ends_by_itself(by_epoch, step, root, tmp_path):
    former = signal.getsignal(signal.SIGTERM)
    cfg = config(root, tmp_path, by_epoch=by_epoch)
    runner, steps = preempted(cfg, step, signal.SIGTERM, code=None)
    assert steps == runner.max_iters
    assert signal.getsignal(signal.SIGTERM) == former


def test_it_says_so_when_nothing_would_be_saved(root, tmp_path):
    cfg = config(root, tmp_path)
    cfg.default_hooks.checkpoint.by_epoch = True
    runner, said = Runner.from_cfg(cfg), []
    runner.logger.warning = said.append
    hook = PreemptionHook()
    hook.before_train(runner)
    hook.after_train(runner)
    assert said == [
        'No CheckpointHook saves by iteration: a signal ends the run, and saves nothing.'
    ]


def test_the_students_own_config_needs_no_mmkd(root, tmp_path):
    cfg = config(root, tmp_path)
    cfg.custom_hooks.append(dict(type='mmkd.PreemptionHook', grace=5))
    cfg.default_hooks.preemption = dict(type='mmkd.PreemptionHook')
    student = student_config(cfg)
    assert 'mmkd' not in student.pretty_text.replace(str(tmp_path), '')
    assert [hook['type'] for hook in student.custom_hooks] == ['EMAHook']
    assert 'logger' in student.default_hooks


def test_two_ranks_leave_together(root, tmp_path):
    """Rank 1 alone gets the signal; rank 0 saves, with the random states of both."""
    done = subprocess.run(
        [sys.executable, two_ranks.__file__, str(root), str(tmp_path)],
        capture_output=True, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        found = json.loads((tmp_path / f'rank{rank}.json').read_text())
        assert found == dict(codes=[85, 0], steps=3, file='iter_3.pth', states=2, differences=[])


def test_a_killed_tool_exits_with_85_and_goes_on(root, tmp_path):
    """tools/train.py as a process; the signal reaches its data worker as well, as under Slurm."""
    cfg = config(root, tmp_path / 'whole', iters=300)
    cfg.train_dataloader.num_workers = 1
    cfg.dump(str(tmp_path / 'kd.py'))
    log = tmp_path / 'log'
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(tmp_path / 'kd.py'), '--resume']
    command += ['--work-dir', str(tmp_path / 'run')]
    short = ['--cfg-options', 'default_hooks.logger.interval=1', 'log_level=INFO']
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    with log.open('w') as file:
        process = subprocess.Popen(
            [*command, *short], stdout=file, stderr=file, env=env, start_new_session=True
        )
        while 'Iter(train) [  2/300]' not in log.read_text() and process.poll() is None:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 85, log.read_text()[-3000:]
    (file,) = (tmp_path / 'run').glob('iter_*.pth')
    steps = int(file.stem.split('_')[1])
    assert 2 <= steps < 300
    assert f'SIGTERM: leaving after {steps} steps with exit code 85' in log.read_text()
    tool = importlib.import_module('train')  # tools/ is on the path of two_ranks
    options = ['--cfg-options', f'train_cfg.max_iters={steps + 1}']
    tool.main(tool.parse_args([*command[2:], *options]))
    assert (tmp_path / f'run/iter_{steps + 1}.pth').is_file()
    assert Config.fromfile(tmp_path / 'run/kd.student.py').model.type == 'EncoderDecoder'
