"""What a cluster's signal does: save at the next step, leave with an exit code of its own."""

import signal
import time

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner.loops import EpochBasedTrainLoop

from mmkd.registry import HOOKS

from .data_workers import shield

EXIT_CODE = 85  # as in HTCondor's examples; no shell, interpreter or launcher uses it
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Ends a run on SIGUSR1 or SIGTERM so that ``--resume`` goes on as if nothing had happened.

    The step that is being computed, on whichever rank the signal arrived, is made a saving step:
    every :class:`CheckpointHook` of the loop's kind gets an interval of 1, so that all that asks
    whether a save is due (:class:`DistillHook` does) hears yes. Then all ranks leave together with
    exit code 85. Under gradient accumulation it is the next step that moves the weights. From the
    last step on the signals mean what they mean without the hook.

    An epoch-based loop can go on from the end of an epoch only. It leaves there if the steps left
    fit into ``grace``, else at once; then the epoch begun is repeated.

    Args:
        grace: seconds that may pass until the epoch begun is over, the save not included.
    """

    priority = 'ABOVE_NORMAL'  # before whatever asks whether a save is due

    def __init__(self, grace: float = 20.0) -> None:
        self.grace = grace
        self._received = 0
        self._leave_at: int | None = None
        self._group = None
        self._former = {}
        self._begun = 0.0

    def before_train(self, runner) -> None:
        """Listens from here on."""
        if is_distributed():
            # Of its own and on the CPU: asking the accelerator each step would wait for it.
            self._group = dist.new_group(backend='gloo')
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                shield(loop.dataloader)
        self._former = {number: signal.signal(number, self._receive) for number in SIGNALS}
        if not self._savers(runner):
            unit = 'epoch' if _by_epoch(runner) else 'iteration'
            runner.logger.warning(
                f'No CheckpointHook saves by {unit}: a signal ends the run, and saves nothing.'
            )

    def before_train_epoch(self, runner) -> None:
        """Leaves, if it is time."""
        self._leave_if_due(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Leaves, if it is time."""
        self._leave_if_due(runner)
        if batch_idx == 0:
            self._begun = time.monotonic()

    def before_val(self, runner) -> None:
        """Leaves, if it is time."""
        self._leave_if_due(runner)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Asks all ranks for a signal, and decides when to leave."""
        if self.is_last_train_iter(runner):
            self._stop_listening()  # nothing to resume: a signal is the end, as without the hook
            return
        if self._leave_at is not None or not _weights_moved(runner.optim_wrapper):
            return
        self._received = self._largest(self._received)
        if not self._received:
            return
        self._leave_at = self._last_step(runner, batch_idx)
        if self._leave_at == runner.max_iters:
            runner.logger.warning(f'{self._name}: the run is about to end, and goes on until then.')
        for hook in self._savers(runner):
            hook.interval, hook.save_begin = 1, 0

    def after_train(self, runner) -> None:
        """Gives the signals back."""
        self._stop_listening()
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _receive(self, number: int, frame) -> None:
        self._received = number

    def _stop_listening(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    @property
    def _name(self) -> str:
        return signal.Signals(self._received).name

    def _largest(self, value: float) -> float:
        """The largest value of all ranks."""
        if self._group is None:
            return value
        values = torch.tensor(value)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self._group)
        return values.item()

    def _last_step(self, runner, batch_idx: int) -> int:
        """How many steps the run will have done when it leaves."""
        now = runner.iter + 1
        if not _by_epoch(runner):
            return now
        step = (time.monotonic() - self._begun) / (batch_idx + 1)
        rest = len(runner.train_loop.dataloader) - batch_idx - 1
        return now + rest if self._largest(step * rest) <= self.grace else now

    def _savers(self, runner) -> list[CheckpointHook]:
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        return [hook for hook in hooks if hook.by_epoch == _by_epoch(runner)]

    def _leave_if_due(self, runner) -> None:
        if self._leave_at is None or not self._leave_at <= runner.iter < runner.max_iters:
            return
        saved = next((hook.last_ckpt for hook in self._savers(runner) if hook.last_ckpt), None)
        what = f'last saved {saved}' if saved else 'nothing was saved'
        if _by_epoch(runner) and runner.iter % len(runner.train_loop.dataloader):
            what += f'; epoch {runner.epoch + 1} is not over and will be repeated'
        runner.logger.warning(
            f'{self._name}: leaving after {runner.iter} steps with exit code {EXIT_CODE}, {what}; '
            '--resume goes on.'
        )
        # The first rank to end has the launcher signal the others: they still write, or clean up.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self._group is not None:
            dist.barrier(self._group)
            dist.destroy_process_group(self._group)
        raise SystemExit(EXIT_CODE)


def _by_epoch(runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _weights_moved(optim_wrapper) -> bool:
    """Whether no gradients are waiting, which no checkpoint holds."""
    several = isinstance(optim_wrapper, OptimWrapperDict)
    return all(w.should_update() for w in (optim_wrapper.values() if several else [optim_wrapper]))
