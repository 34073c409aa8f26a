"""Two ranks train a toy whole, then stopped by a signal to the second alone, then resumed."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'tools'))

from _common import _DistributedOnCPU  # noqa: E402

from mmkd.hooks import PreemptionHook  # noqa: E402
from mmkd.testing import differences, run_state, toy_config, toy_distiller, toy_model  # noqa: E402


class SignalHook(Hook):
    """Sends a signal to its own process while a step is computed."""

    def __init__(self, step: int, number: int = signal.SIGUSR1) -> None:
        self.step = step
        self.number = number

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter + 1 == self.step:
            os.kill(os.getpid(), self.number)


class CountHook(Hook):
    """Counts the steps that this process computed."""

    steps = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.steps += 1


class _Runner(_DistributedOnCPU, Runner):
    pass


def run(root, work_dir, at=None, **changes) -> tuple[Runner, int]:
    """A run of 6 steps; the runner, and the exit code or 0."""
    student = toy_model('seg')
    student['backbone']['norm_cfg'] = dict(type='SyncBN')  # reverted, as there is no GPU
    cfg = toy_config(
        'seg', root, work_dir, toy_distiller('seg', student=student), 6, flip=False,
        save_interval=4, launcher='pytorch', **changes,
    )  # fmt: skip
    runner = _Runner.from_cfg(cfg)
    runner.register_hook(PreemptionHook())
    if at is not None and dist.get_rank() == 1:
        runner.register_hook(SignalHook(at))
    try:
        runner.train()
    except SystemExit as leaving:
        return runner, leaving.code
    return runner, 0


def main(rank: int, root: str, folder: Path) -> None:
    """Writes what each rank saw."""
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)  # mmengine asks for it
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    whole, _ = run(root, folder / 'whole')
    stopped, code = run(root, folder / 'stopped', at=3)
    file = (folder / 'stopped/last_checkpoint').read_text()
    resumed, last = run(root, folder / 'resumed', load_from=file, resume=True)
    found = dict(
        codes=[code, last],
        steps=stopped.iter,
        file=Path(file).name,
        states=len(torch.load(file, weights_only=False)['distill_state']['random']),
        differences=[
            name
            for name in differences(run_state(whole), run_state(resumed))
            # BatchNorm's statistics are each rank's own, and the checkpoint is the first rank's
            if rank == 0 or 'running_' not in name
        ],
    )
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == '__main__':
    mp.start_processes(main, (sys.argv[1], Path(sys.argv[2])), nprocs=2, start_method='fork')
