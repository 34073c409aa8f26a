"""What of mmengine's options does not go with a distillation, said before the first step."""

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel


def check_options(cfg: dict, model: nn.Module, student: nn.Module) -> None:
    """Refuses what would train another thing than the config says.

    Args:
        cfg: the run's config.
        model: what the runner calls, a wrapper perhaps.
        student: the distilled student inside.

    Raises:
        ValueError: on sharded parameters, or a tap inside a checkpointed module.
    """
    if not student.distillation.is_on:
        return
    if isinstance(model, FullyShardedDataParallel):
        raise ValueError(
            'FSDP: the checkpoint would hold one shard of the adapters and exits; use DDP (what '
            'is large is the teacher, which lies outside and would not be sharded either)'
        )
    _check_checkpointing(cfg.get('activation_checkpointing') or (), student)


def _check_checkpointing(modules, student: nn.Module) -> None:
    """mmengine turns it on after the student was built, too late for the dry run to see."""
    for module in [modules] if isinstance(modules, str) else modules:
        for part in student.distillation.parts:
            inside = [tap for tap in part.student_taps if tap.path.startswith(f'{module}.')]
            if inside and not part.is_off:
                raise ValueError(
                    f'{part.where}: tap {inside[0].address!r} lies inside {module!r}, whose '
                    'activations are checkpointed and have no gradient; tap the module itself, or '
                    'take it off activation_checkpointing'
                )
