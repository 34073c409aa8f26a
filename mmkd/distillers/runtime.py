"""How a teacher is run: cheaper in ways that leave what it says alone, each switched on by name."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from mmcv.cnn.utils import fuse_conv_bn
from torch import Tensor, nn

from .compiled import read_options

_DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Options of a teacher's forward pass.

    ``tools/benchmark.py CONFIG --teacher-options`` measures what each gains and changes.

    Args:
        fold_bn: fold each BatchNorm into the convolution before it.
        channels_last: run in the ``[B, H, W, C]`` memory format.
        autocast: ``'bfloat16'`` or ``'float16'``; ``None``: as the student runs.
        compile: ``True``, or arguments of ``torch.compile``, for what lies between the taps.

    Raises:
        ValueError: on a dtype that autocast does not have, or arguments that do not go.
    """

    fold_bn: bool = False
    channels_last: bool = False
    autocast: str | None = None
    compile: bool | dict = False

    def __post_init__(self) -> None:
        if self.autocast is not None and self.autocast not in _DTYPES:
            raise ValueError(
                f"autocast={self.autocast!r} must be 'bfloat16', 'float16' or None (as the student)"
            )
        read_options(self.compile)

    @property
    def compile_options(self) -> dict | None:
        """Arguments of ``torch.compile``; ``None``: nothing is compiled."""
        return read_options(self.compile)

    def fold(self, model: nn.Module) -> None:
        """Folds BatchNorms in place, in a frozen model in eval mode.

        mmcv pairs layers by the order in which they were defined; whether that was the order in
        which they run is for the caller to compare.
        """
        if self.fold_bn:
            fuse_conv_bn(model)
            model.requires_grad_(False)

    def lay_out(self, model: nn.Module) -> None:
        """Sets the memory format of the weights, in place."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)

    def inputs(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in the memory format of the model."""
        if not self.channels_last:
            return images
        return images.contiguous(memory_format=torch.channels_last)

    def context(self, device: torch.device):
        """What the forward pass runs under."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=_DTYPES[self.autocast])

    def is_emulated(self, device: torch.device) -> bool:
        """Whether the processor lacks kernels for its dtype, so that it slows the teacher down."""
        if device.type != 'cpu' or self.autocast != 'bfloat16':
            return False
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def __str__(self) -> str:
        names = [name for name in ('fold_bn', 'channels_last') if getattr(self, name)]
        names += [self.autocast] if self.autocast else []
        return ', '.join([*names, *(['compile'] if self.compile_options is not None else [])])


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest absolute difference of corresponding tensors, relative to the largest value there."""
    worst = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        scale = other.abs().max().clamp(min=1e-6)
        worst = max(worst, float((mine.float() - other).abs().max() / scale))
    return worst
