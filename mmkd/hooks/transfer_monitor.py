"""A hook that shows whether what is taught goes with the labels or against them."""

from mmengine.hooks import Hook

from mmkd.registry import HOOKS

from .distill import unwrap


@HOOKS.register_module()
class TransferMonitor(Hook):
    """Logs how much of the gradient each term and exit makes, and whether it fights the rest.

    At each of its steps ``NAME.grad_share``, ``NAME.grad_rest`` (as :class:`DistillHook` has them)
    and ``NAME.grad_cosine``: of the angle, over all tensors of its tap, between its own gradient
    and the rest of the gradient there. 1: it asks for what the rest asks for; 0: for something
    else; below 0: for the opposite. At the final predictions the rest is the labels', and that of
    other terms there; at a stage it is whatever flows back from deeper layers, an exit's own deeper
    stages included: one exit for each stage tells them apart.

    They are read off the ordinary backward pass by the hooks on tensors that the shares have; there
    is no second one. Steps whose gradient is not finite are left out. What it logs goes where the
    log goes: the console, ``scalars.json``, TensorBoard, W&B. It is off unless it is added::

        custom_hooks = [dict(type='mmkd.TransferMonitor', interval=50)]

    Args:
        interval: iterations between two measurements; best a divisor of the logger's.

    Raises:
        ValueError: on an interval that is no number of iterations.
    """

    # after the hook that starts and reads the shares, before the one that writes the log
    priority = 55

    def __init__(self, interval: int = 50) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
            raise ValueError(
                f'TransferMonitor: interval={interval!r} must be a number of iterations >= 1'
            )
        self.interval = interval

    def before_train(self, runner) -> None:
        """Looks whether there is anything to watch.

        Raises:
            ValueError: if the model is no distillation.
        """
        if not hasattr(unwrap(runner.model), 'distillation'):
            raise ValueError(
                'TransferMonitor: the model is not a distillation, so nothing passes; drop it from '
                "custom_hooks or set model.type='mmkd.Distiller'"
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Asks for the directions too."""
        if self.every_n_train_iters(runner, self.interval):
            unwrap(runner.model).distillation.shares.start(True, directions=True)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Logs them; the shares themselves have just been read and logged."""
        if self.every_n_train_iters(runner, self.interval):
            for name, cosine in unwrap(runner.model).distillation.shares.cosines.items():
                runner.message_hub.update_scalar(f'train/{name}.grad_cosine', cosine)
