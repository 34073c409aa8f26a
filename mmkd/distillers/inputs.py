"""Gives a teacher the pixels that its own preprocessor would have given it."""

from typing import NamedTuple

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn


class _Scaling(NamedTuple):
    """What a data preprocessor does to the pixels: ``(channels(raw) - mean) / std``, then pad."""

    mean: Tensor  # [1] or [C]
    std: Tensor  # [1] or [C]
    swaps_channels: bool
    pad_value: float


class InputConverter:
    """Converts the student's preprocessed images to the teacher's normalisation.

    Both preprocessors start from the same raw images; the student's normalisation is undone and
    the teacher's applied, as one multiplication and one addition per channel. Padding comes after
    normalisation in mmdet and mmseg alike, so it is set to the teacher's own padding value. The
    padded size stays the student's, whatever divisor the teacher would have used.

    Args:
        student_preprocessor: the student's data preprocessor (mmengine's ``ImgDataPreprocessor``
            or one that works like it).
        teacher_preprocessor: the teacher's.
        name: the teacher's name in messages.

    Raises:
        ValueError: one of the two does not say how it scales pixels, or they count channels
            differently.
    """

    def __init__(
        self,
        student_preprocessor: nn.Module | None,
        teacher_preprocessor: nn.Module | None,
        name: str,
    ) -> None:
        student = _scaling(student_preprocessor)
        teacher = _scaling(teacher_preprocessor)
        kinds = (
            f'the student ({type(student_preprocessor).__name__}) and the teacher {name!r} '
            f'({type(teacher_preprocessor).__name__})'
        )
        for owner, scaling in (('student', student), ('teacher', teacher)):
            if scaling is None:
                raise ValueError(
                    f"images cannot be converted between {kinds}: the {owner}'s preprocessor has "
                    'no mean, std and channel order; give its model a data_preprocessor with them'
                )
        self._flips = student.swaps_channels != teacher.swaps_channels
        sizes = [max(scaling.mean.numel(), scaling.std.numel()) for scaling in (student, teacher)]
        self._channels = 3 if self._flips else max(sizes)
        if any(size not in (1, self._channels) for size in sizes):
            raise ValueError(
                f'images cannot be converted between {kinds}: {sizes[0]} channels against '
                f'{sizes[1]}; use a teacher that takes the same images'
            )
        self._kinds = kinds
        mean, std = student.mean, student.std
        if self._flips:
            mean, std = mean.flip(0), std.flip(0)
        self._scale = (std / teacher.std).view(-1, 1, 1)
        self._shift = ((mean - teacher.mean) / teacher.std).view(-1, 1, 1)
        self._pad_value = teacher.pad_value
        self._same_pixels = (
            not self._flips
            and bool((student.mean == teacher.mean).all())
            and bool((student.std == teacher.std).all())
        )
        self._same = self._same_pixels and student.pad_value == teacher.pad_value

    def __call__(self, inputs: Tensor, data_samples: list | None) -> Tensor:
        """Convert one batch.

        Args:
            inputs: images as the student's preprocessor returned them, [B, C, H, W].
            data_samples: one per image; their ``img_shape`` (height, width in pixels) tells where
                padding begins, at the bottom and the right. None: no padding.

        Returns:
            [B, C, H, W] in the dtype of ``inputs``; the very tensor where nothing differs.

        Raises:
            ValueError: the images have another number of channels than the preprocessors.
        """
        if self._same:
            return inputs
        if self._channels not in (1, inputs.shape[1]):
            raise ValueError(
                f'images of shape {tuple(inputs.shape)} cannot be converted between {self._kinds}, '
                f'which take {self._channels} channels: check the pipeline'
            )
        if self._same_pixels:
            converted = inputs.clone()
        else:
            if self._scale.device != inputs.device:
                self._scale = self._scale.to(inputs.device)
                self._shift = self._shift.to(inputs.device)
            pixels = inputs.flip(1) if self._flips else inputs
            converted = (pixels.float() * self._scale + self._shift).to(inputs.dtype)
        for image, sample in zip(converted, data_samples or []):
            shape = sample.metainfo.get('img_shape')
            if shape is not None:
                image[:, shape[0] :] = self._pad_value
                image[:, :, shape[1] :] = self._pad_value
        return converted


def _scaling(preprocessor: nn.Module | None) -> _Scaling | None:
    """What ``preprocessor`` does to pixels; None where it does not say."""
    unscaled = torch.zeros(1), torch.ones(1)
    if type(preprocessor) is BaseDataPreprocessor:
        return _Scaling(*unscaled, swaps_channels=False, pad_value=0)
    # mmengine and mmdet use the first name, older mmseg the second.
    swaps = getattr(
        preprocessor, '_channel_conversion', getattr(preprocessor, 'channel_conversion', None)
    )
    normalizes = getattr(preprocessor, '_enable_normalize', None)
    if swaps is None or normalizes is None:
        return None
    mean, std = unscaled
    if normalizes:
        mean, std = (
            values.detach().float().cpu().flatten()
            for values in (preprocessor.mean, preprocessor.std)
        )
    pad_value = getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0))
    return _Scaling(mean, std, bool(swaps), float(pad_value))
