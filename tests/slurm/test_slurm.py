"""tools/slurm_train.sh and slurm_test.sh on a real Slurm of one node: signals, limits, requeues."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkd.testing import toy_config, toy_distiller, write_toy_data

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MISSING = [name for name in ('slurmctld', 'slurmd', 'munged') if not shutil.which(name)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f'no {", ".join(MISSING)}: install slurm-wlm and munge'
    ),
]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope='module')
def cluster():
    """Environment of a user of the cluster; its folder is short, since sockets' paths must be."""
    if os.cpu_count() < 2:
        pytest.skip('two tasks need two CPUs')
    folder = tempfile.mkdtemp(prefix='slurm')
    ports = dict(CTLD_PORT=free_port(), SLURMD_PORT=free_port())
    start = subprocess.run(
        ['bash', HERE / 'start.sh', folder], env={**os.environ, **ports},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert start.returncode == 0, start.stderr
    (line,) = start.stdout.splitlines()
    settings = dict(
        SLURM_CONF=line.partition('=')[2], PYTHON=sys.executable, PYTHONPATH=str(ROOT),
        OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', GPUS='2', GPUS_PER_NODE='0',
        CPUS_PER_TASK='1',
    )  # fmt: skip
    yield {**os.environ, **settings}
    subprocess.run(['bash', HERE / 'stop.sh', folder], timeout=120, check=True)
    shutil.rmtree(folder, ignore_errors=True)  # a daemon may still be writing its last state


@pytest.fixture
def config(tmp_path) -> Path:
    """A distilled toy of many steps, with data workers, that logs each step."""
    root = write_toy_data(tmp_path / 'data')
    cfg = toy_config('seg', root, tmp_path / 'run', toy_distiller('seg'), 4000, save_interval=2000)
    cfg.train_dataloader.num_workers = 1
    cfg.default_hooks.logger.interval = 1
    cfg.log_level = 'INFO'
    cfg.dump(str(tmp_path / 'kd.py'))
    return tmp_path / 'kd.py'


def tool(name: str, config: Path, *arguments) -> list[str]:
    return [str(ROOT / 'tools' / name), 'test', 'toy', str(config), *map(str, arguments)]


def steps_done(log: Path) -> int:
    found = re.findall(r'Iter\(train\) \[ *(\d+)/', log.read_text()) if log.exists() else []
    return int(found[-1]) if found else 0


def wait_for(condition, what: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f'waited {seconds} s for {what}'
        time.sleep(0.2)


def slurm(cluster, *command) -> str:
    done = subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def last_checkpoint(folder: Path) -> int:
    path = Path((folder / 'last_checkpoint').read_text())
    saved = torch.load(folder / path.name, weights_only=False)
    assert len(saved['distill_state']['random']) == 2  # one state a task
    return saved['meta']['iter']


@pytest.mark.parametrize('number', [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on(number, cluster, config, tmp_path):
    """Two tasks by srun; the signal reaches their data workers, too."""
    log, run = tmp_path / 'log', tmp_path / 'run'
    with log.open('w') as file:
        training = subprocess.Popen(
            tool('slurm_train.sh', config, run), env=cluster, stdout=file, stderr=file
        )
        wait_for(lambda: steps_done(log) >= 3, 'the third step')
        slurm(cluster, 'scancel', f'--signal={number.name[3:]}', '--user', str(os.getuid()))
        assert training.wait(120) == 85, log.read_text()[-3000:]
    assert f'{number.name}: leaving' in log.read_text()
    stopped = last_checkpoint(run)
    assert 3 <= stopped < 4000
    options = ['--resume', '--cfg-options', f'train_cfg.max_iters={stopped + 2}']
    done = subprocess.run(
        tool('slurm_train.sh', config, run, *options), env=cluster, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert last_checkpoint(run) == stopped + 2


JOB = """#!/bin/bash
#SBATCH --partition=test --ntasks=2 --requeue --open-mode=append {limit}
REQUEUE=1 {command}
"""


@pytest.mark.parametrize('limit', ['', '--time=1 --signal=USR1@20'], ids=['scancel', 'time limit'])
def test_a_job_goes_on_by_itself(limit, cluster, config, tmp_path):
    """Saved, requeued and resumed by Slurm, without anyone's doing."""
    log, run = tmp_path / 'log', tmp_path / 'run'
    script = tmp_path / 'job.sh'
    command = ' '.join(tool('slurm_train.sh', config, run))
    script.write_text(JOB.format(limit=limit, command=command))
    job = slurm(cluster, 'sbatch', '--parsable', f'--output={log}', str(script)).strip()
    wait_for(lambda: steps_done(log) >= 3, 'the third step')
    if not limit:
        slurm(cluster, 'scancel', '--signal=USR1', job)
    wait_for(lambda: 'exit code 85' in log.read_text(), 'the signal')
    stopped = int(re.search(r'leaving after (\d+) steps', log.read_text())[1])
    assert last_checkpoint(run) == stopped
    wait_for(lambda: steps_done(log) > stopped, 'the first step of the requeued job')
    assert f'resumed epoch: 0, iter: {stopped}' in log.read_text()
    assert 'Restarts=1' in slurm(cluster, 'scontrol', 'show', 'job', job)
    slurm(cluster, 'scancel', job)
    wait_for(lambda: not slurm(cluster, 'squeue', '--noheader'), 'the job to be cancelled')


def test_requeue_needs_a_batch_job(config, cluster, tmp_path):
    done = subprocess.run(
        tool('slurm_train.sh', config, tmp_path / 'run'), env=dict(cluster, REQUEUE='1'),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert 'REQUEUE=1 works inside a batch job' in done.stderr


def test_a_comparison_by_slurm_survives_kills(cluster, config, tmp_path):
    """An array of two runs; a signal requeues one, and a killed comparison finds both again."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'train_cfg.max_iters': 300, 'default_hooks.checkpoint.interval': 300})
    cfg.merge_from_dict({'val_cfg': {}, 'val_dataloader': cfg.train_dataloader.to_dict()})
    cfg.merge_from_dict({'val_evaluator': dict(type='IoUMetric'), 'train_cfg.val_interval': 300})
    cfg.val_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
    cfg.merge_from_dict({f'test_{k}': cfg[f'val_{k}'] for k in ('cfg', 'dataloader', 'evaluator')})
    cfg.dump(str(config))
    out, printed = tmp_path / 'out', tmp_path / 'printed'
    command = [sys.executable, str(ROOT / 'tools/compare.py'), str(config), '--seeds', '0', '1']
    command += ['--out', str(out), '--executor', 'slurm', '--jobs', '2', '--slurm']
    command += ['gpus_per_node=0', 'cpus_per_task=1', 'slurm_partition=test', 'timeout_min=20']

    def steps_of(seed: int) -> int:
        return steps_done(out / f'runs/kd/seed{seed}/train.log')

    with printed.open('w') as file:
        first = subprocess.Popen(command, env=cluster, cwd=tmp_path, stdout=file, stderr=file)
        wait_for(lambda: min(map(steps_of, (0, 1))) >= 3 or first.poll() is not None, 'both runs')
        assert first.poll() is None, printed.read_text()[-3000:]
        first.kill()
        first.wait()
    job = json.loads((out / 'slurm/jobs.json').read_text())['kd_seed0.json']
    slurm(cluster, 'scancel', '--signal=USR1', job)
    with printed.open('w') as file:
        again = subprocess.run(command, env=cluster, cwd=tmp_path, stdout=file, stderr=file)
    text = printed.read_text()
    assert again.returncode == 0, text[-3000:]
    assert '2 jobs of an earlier call still wait or run.' in text
    assert 'Restarts=1' in slurm(cluster, 'scontrol', 'show', 'job', job)
    logs = [(out / f'runs/kd/seed{seed}/train.log').read_text() for seed in (0, 1)]
    assert ['resumed epoch' in log for log in logs] == [True, False]
    assert {p.name for p in out.glob('*.json')} == {'kd_seed0.json', 'kd_seed1.json'}
    assert (out / 'summary.md').is_file()
