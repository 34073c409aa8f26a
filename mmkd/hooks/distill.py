"""The hook that every distillation needs: it starts, times, logs, saves and resumes."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, get_rank, get_world_size, master_only
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner.loops import BaseLoop, EpochBasedTrainLoop

from mmkd.distillers.summary import summarise
from mmkd.registry import HOOKS

from .average import adopt_average, check_average
from .limits import check_options
from .random_state import random_state, restore_random_state


@HOOKS.register_module()
class DistillHook(Hook):
    """Starts a distillation, tells it the time, logs gradient shares, and makes resuming exact.

    Every checkpoint holds the plain student in ``state_dict``; adapters, exits and random states
    lie beside it under ``distill_state``. The student's own stock config is written beside the run.

    Args:
        interval: iterations between two measurements of the gradient shares.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._states: list[dict] | None = None
        self._resumed: dict | None = None
        self._validated = False

    def before_run(self, runner) -> None:
        """Matches classes; in testing there is nothing to start.

        Raises:
            ValueError: if the model is no distillation, its classes cannot be matched, an option
                of mmengine's does not go with it, or a teacher's average is kept by nobody.
        """
        model = unwrap(runner.model)
        if not hasattr(model, 'distillation'):
            raise ValueError(
                "DistillHook: the model is not a distillation; set model.type='mmkd.Distiller' or "
                'drop default_hooks.distill'
            )
        loop = runner._train_loop  # the property would build the training set in testing
        if isinstance(loop, BaseLoop):
            check_options(runner.cfg or {}, runner.model, model)
            check_average(runner, model)
            model.distillation.start(_classes(loop.dataloader.dataset))
            self._write_student_config(runner)

    def before_train(self, runner) -> None:
        """Hands the average to a teacher ``'ema'`` and prints the summary.

        Raises:
            ValueError: if ``student_checkpoint`` or ``inherit`` never came to act.
        """
        model = unwrap(runner.model)
        start = model.starting_point
        if start is not None and not start.applied:
            raise ValueError(
                'student_checkpoint / inherit: the runner did not initialise the weights, so the '
                'student would start elsewhere; call model.init_weights() before training'
            )
        adopt_average(runner, model)
        if runner.cfg and runner.cfg.get('compile'):
            model.distillation.shares.stay_uncompiled()
        runner.logger.info(summarise(model))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Tells the time; after resuming, brings the random states back first."""
        if self._resumed is not None:
            self._restore()
        self._validated = False
        distillation = unwrap(runner.model).distillation
        distillation.iteration = runner.iter
        due = any(part.controller.is_due(runner.iter) for part in _controlled(distillation))
        distillation.shares.start(due or self.every_n_train_iters(runner, self.interval))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Logs the gradient shares, and gathers random states where a save is due."""
        distillation = unwrap(runner.model).distillation
        if distillation.shares.measuring:
            shares = distillation.shares.read()
            for name, (own, rest) in shares.items():
                runner.message_hub.update_scalar(f'train/{name}.grad_share', own)
                runner.message_hub.update_scalar(f'train/{name}.grad_rest', rest)
            for part in _controlled(distillation):
                if part.controller.is_due(runner.iter):
                    part.controller.update(shares.get(part.name, (None,))[0])
                weight = part.controller.value.item()
                runner.message_hub.update_scalar(f'train/{part.name}.weight', weight)
        self._gather(runner, by_epoch=False)

    def after_train_epoch(self, runner) -> None:
        """Gathers random states where a save is due."""
        self._gather(runner, by_epoch=True)

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Gathers random states again: with a new best, mmengine rewrites the latest checkpoint."""
        self._validated = True
        self._states = _all_states() if get_world_size() > 1 else None

    def _gather(self, runner, by_epoch: bool) -> None:
        self._states = None
        if get_world_size() == 1:
            return
        count = runner.epoch if by_epoch else runner.iter
        last = self.is_last_train_epoch(runner) if by_epoch else self.is_last_train_iter(runner)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.by_epoch == by_epoch:
                due = hook.interval > 0 and (count + 1) % hook.interval == 0
                if due or (hook.save_last and last):
                    self._states = _all_states()
                    return

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Puts what is not the student beside it, keyed by the user's names."""
        distillation = unwrap(runner.model).distillation
        state = {name: part.state_dict() for name, part in distillation.named_parts().items()}
        checkpoint['distill_state'] = dict(
            parts=state,
            ema={name: p.state_dict() for name, p in _averaged_parts(runner).items()},
            random=self._states if self._states is not None else [random_state()],
            pending_iterators=self._pending_iterators(runner),
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Takes it back when a run is resumed.

        Raises:
            ValueError: if the checkpoint's terms and exits are not the config's.
        """
        if not runner._resume:
            return
        distillation = unwrap(runner.model).distillation
        saved = checkpoint.get('distill_state')
        if saved is None:
            raise ValueError(
                'resume: the checkpoint holds no distill_state, so it is not of a distillation; '
                'start from its weights by load_from (without resume)'
            )
        ours = {name: part.state_dict() for name, part in distillation.named_parts().items()}
        difference = _difference(saved['parts'], ours)
        if difference:
            raise ValueError(
                f'resume: terms and exits were edited since the checkpoint ({difference}); start '
                'from its weights by load_from (without resume)'
            )
        for name, part in distillation.named_parts().items():
            part.load_state_dict(saved['parts'][name])
        for name, part in _averaged_parts(runner).items():
            if name in saved['ema']:
                part.load_state_dict(saved['ema'][name])
        self._resumed = saved

    def _restore(self) -> None:
        saved, self._resumed = self._resumed, None
        states = saved['random']
        if len(states) != get_world_size():
            return  # another number of ranks: no run to be identical with
        restore_random_state(states[get_rank()])
        for _ in range(saved['pending_iterators']):
            _draw_as_a_data_iterator_does()

    def _pending_iterators(self, runner) -> int:
        """How many data iterators the run opens from here to its next training step."""
        loop = runner.train_loop
        step = loop.epoch if isinstance(loop, EpochBasedTrainLoop) else loop.iter
        last = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else loop.max_iters
        if self._validated:
            validates = False
        else:
            step += 1  # the loop counts after the save
            due = step % loop.val_interval == 0 or step == last
            validates = runner._val_loop is not None and step >= loop.val_begin and due
        if isinstance(loop, EpochBasedTrainLoop):
            reopens = not loop.dataloader.persistent_workers
        else:
            loader = loop.dataloader
            samplers = (loader.sampler, getattr(loader.batch_sampler, 'sampler', None))
            finite = not any(isinstance(s, InfiniteSampler) for s in samplers)
            reopens = finite and step % len(loop.dataloader) == 0
        return int(validates) + int(reopens)

    @master_only
    def _write_student_config(self, runner) -> None:
        if not runner.cfg or 'student' not in runner.cfg.get('model', {}):
            return
        cfg = student_config(runner.cfg)
        stem = Path(runner.cfg.filename).stem if runner.cfg.filename else 'student'
        cfg.dump(str(Path(runner.work_dir) / f'{stem}.student.py'))


def student_config(cfg: Config) -> Config:
    """The stock config of a distillation's student, or of a stock run, which needs no mmkd."""
    content = cfg.to_dict()
    if 'student' in content['model']:
        content['model'] = content['model']['student']
        if 'custom_imports' in content:
            # they may be of the student, or of the distillation, which need not be there any more
            content['custom_imports']['allow_failed_imports'] = True
    hooks = content.get('default_hooks', {})
    for name in [name for name, hook in hooks.items() if _is_ours(hook)]:
        del hooks[name]
    if content.get('custom_hooks'):
        content['custom_hooks'] = [h for h in content['custom_hooks'] if not _is_ours(h)]
    return Config(_without_our_scope(content), filename=cfg.filename)


def _without_our_scope(content):
    """Drops the mark that `_base_ = 'mmkd::...'` leaves on all that came from there."""
    if isinstance(content, dict):
        kept = {k: v for k, v in content.items() if (k, v) != ('_scope_', 'mmkd')}
        return {k: _without_our_scope(v) for k, v in kept.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(_without_our_scope(v) for v in content)
    return content


def _is_ours(hook: dict | None) -> bool:
    return hook is not None and str(hook.get('type')).startswith('mmkd.')


def unwrap(model):
    """The model inside a wrapper for several processes, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def _classes(dataset):
    return getattr(dataset, 'metainfo', {}).get('classes')


def _all_states() -> list[dict]:
    return all_gather_object(random_state())


def _controlled(distillation) -> list:
    """Terms and exits whose weight follows their share of the gradient, at their full height."""
    return [
        part
        for part in distillation.parts
        if part.controller is not None and part.schedule(distillation.iteration) == 1.0
    ]


def _averaged_parts(runner) -> dict:
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model'):
            return hook.ema_model.module.distillation.named_parts()
    return {}


def _difference(saved: dict, ours: dict) -> str | None:
    for name in sorted(saved.keys() | ours.keys()):
        if name not in ours:
            return f'{name} is gone'
        if name not in saved:
            return f'{name} is new'
        shapes = [{k: tuple(v.shape) for k, v in s[name].items()} for s in (saved, ours)]
        if shapes[0] != shapes[1]:
            return f'{name} has other parameters'
    return None


def _draw_as_a_data_iterator_does() -> None:
    """torch's data iterators draw their base seed when they are opened, with or without workers."""
    torch.empty((), dtype=torch.int64).random_()
