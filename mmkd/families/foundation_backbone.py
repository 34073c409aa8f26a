"""A foundation model's backbone as a teacher."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModel, ImgDataPreprocessor
from torch import Tensor, nn

from mmkd.registry import MODELS

_FILE = 'preprocessor_config.json'


@MODELS.register_module()
class FoundationBackbone(BaseModel):
    """Any backbone of ``transformers`` (DINOv2, DINOv3, Swin, ConvNeXt, ...), with its weights.

    For teachers alone: ``teacher=dict(config=dict(type='mmkd.FoundationBackbone', ...))``. Its
    stages are tapped as ``backbone[i]``. It sees the shared images in its own normalisation,
    resized such that a patch covers ``stride`` of their pixels: DINOv2, whose patches have 14, is
    shown 512x1024 pixels as 448x896, and its 32x64 cells fall together with the student's.

    Args:
        name_or_path: a local folder as ``save_pretrained`` writes it, or a name on the hub, from
            which it is then downloaded.
        out_features: names of the stages, as ``['stage3', 'stage4']``; ``None``: the last.
        out_indices: the same by index.
        stride: pixels of the shared image to a patch; ``None``: the power of two at or above the
            patch, 16 for DINOv2 and DINOv3, 4 for Swin and ConvNeXt.
        mean: of each channel, red first, in pixels from 0 to 255; ``None``: as the model's own
            processor has it.
        std: likewise.

    Raises:
        ValueError: if ``transformers`` is missing, the model cannot be loaded, its file leaves
            weights unfilled, or its processor's normalisation is nowhere.
    """

    def __init__(
        self, name_or_path: str, out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None, stride: int | None = None,
        mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        if (mean is None) != (std is None):
            raise ValueError('FoundationBackbone: give both mean and std, or neither')
        if mean is None:
            mean, std = _normalisation(name_or_path)
        super().__init__(ImgDataPreprocessor(mean=mean, std=std, bgr_to_rgb=True))
        self.weights_from = name_or_path
        stages = dict(out_features=out_features, out_indices=out_indices)
        body = _load(name_or_path, {k: list(v) for k, v in stages.items() if v is not None})
        self.backbone = _Stages(body, stride)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """``[B, 3, H, W]`` in its own normalisation -> maps ``[B, C, h, w]`` by stage."""
        return self.backbone(inputs)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        """See :meth:`extract_feat`; it has no losses and no predictions."""
        return self.extract_feat(inputs)


class _Stages(nn.Module):
    """Returns a tuple of maps, which is what taps expect."""

    def __init__(self, body: nn.Module, stride: int | None) -> None:
        super().__init__()
        patch = getattr(body.config, 'patch_size', 1)
        self.patch = patch if isinstance(patch, int) else max(patch)
        self.stride = stride or 1 << (self.patch - 1).bit_length()
        self.body = body

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        size = [math.ceil(pixels / self.stride) * self.patch for pixels in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(
                images.float(), size, mode='bicubic', align_corners=False, antialias=True
            )
        return tuple(self.body(images).feature_maps)


def _transformers():
    try:
        import transformers
    except ImportError:
        raise ValueError(
            "FoundationBackbone needs the package transformers: pip install 'mmkd[foundation]'"
        ) from None
    return transformers


def _reason(error: Exception) -> str:
    return ' '.join(str(error).split())


def _normalisation(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of pixels from 0 to 255, red first."""
    processing = _transformers().image_processing_utils.BaseImageProcessor
    try:
        settings, _ = processing.get_image_processor_dict(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f'FoundationBackbone: {name!r} tells no normalisation ({_FILE}: {_reason(error)}); '
            'give mean=[...] and std=[...] in pixels from 0 to 255, or correct name_or_path'
        ) from error
    scale = settings.get('rescale_factor', 1 / 255) if settings.get('do_rescale', True) else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if settings.get('do_normalize', True):
        mean, std = settings['image_mean'], settings['image_std']
    return [x / scale for x in mean], [x / scale for x in std]


def _load(name: str, stages: dict) -> nn.Module:
    library = _transformers()
    try:
        # AutoBackbone itself asks the hub, and takes no folder
        kind = library.MODEL_FOR_BACKBONE_MAPPING[type(library.AutoConfig.from_pretrained(name))]
        body, report = kind.from_pretrained(name, output_loading_info=True, **stages)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f'FoundationBackbone: {name!r} cannot be loaded ({_reason(error)}); give the folder of '
            'a model that has a backbone in transformers, or its name on the hub where there is a '
            'network'
        ) from error
    own = dict(body.named_parameters())
    missing = [key for key in report['missing_keys'] if not _is_plain(own.get(key))]
    wrong = [*missing, *report['mismatched_keys']]
    if wrong:
        raise ValueError(
            f'FoundationBackbone: the file of {name!r} leaves {len(wrong)} weights unfilled '
            f'({wrong[0]}, ...); give the weights that belong to its config.json'
        )
    plain = sorted(report['missing_keys'])
    if plain:
        print_log(
            f'{name}: {len(plain)} weights that it lacks stay at 1 and 0, such as those of a norm '
            f'on a stage ({plain[0]}, ...)', logger='current', level=30,
        )  # fmt: skip
    return body


@torch.no_grad()
def _is_plain(weight: Tensor | None) -> bool:
    """Whether a weight is a norm's as it begins, all 1 or all 0, with nothing random in it."""
    return weight is not None and bool((weight == 0).all() or (weight == 1).all())
