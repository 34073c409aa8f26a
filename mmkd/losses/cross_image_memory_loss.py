import torch
from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_count, check_positive
from .functional.cross_image import cross_image_memory_loss
from .functional.pixels import class_means, unit
from .functional.reduce import gather_rows
from .key_queue import KeyQueue


@MODELS.register_module()
class CrossImageMemoryLoss(nn.Module):
    """KL of each pixel's likeness to remembered pixels and regions of all classes (CIRKD, CVPR 22).

    CIRKD's memory term (Yang et al.). The teacher's pixels, and their mean in each image and class,
    enter queues as unit vectors from all ranks; the student's projected pixels and the teacher's
    are compared by their softmax over cosines / tau to keys drawn from them. Mean over pixels that
    have a class, their number averaged over ranks.

    The official code picks pixels for a class's queue by a permutation of 0 ... K - 1 instead of
    the class's own pixels, so that a queue holds pixels of any class: mended. Between its layers
    the projector has LayerNorm instead of SyncBN, whose statistics ignored pixels and the number
    of ranks would change.

    Published: after ASPP or PSP (``tap='decode_head.bottleneck'``), weight 0.1.

    The queues lie in a checkpoint beside the student, K * (pixel_queue + region_queue) * C floats:
    0.9 GB for Cityscapes and 512 channels.

    Args:
        tau: Temperature of the cosines.
        temperature: Of the distributions, on top.
        pixel_weight: Of the pixel keys.
        region_weight: Of the region keys.
        pixel_queue: How many pixels of a class are remembered.
        region_queue: How many regions.
        pixels: How many pixels of a class enter from an image.
        pixel_keys: How many pixels are drawn in a step, over all classes.
        region_keys: How many regions.

    Raises:
        ValueError: If a temperature or a size is not positive, or a weight negative.
    """

    asks = ('label', 'num_classes')
    any_channels = True

    def __init__(
        self, tau: float = 0.1, temperature: float = 1.0, pixel_weight: float = 1.0,
        region_weight: float = 1.0, pixel_queue: int = 20000, region_queue: int = 2000,
        pixels: int = 16, pixel_keys: int = 4096, region_keys: int = 1024,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in dict(tau=tau, temperature=temperature).items():
            check_positive(f'CrossImageMemoryLoss: {name}', value)
        counts = dict(
            pixel_queue=pixel_queue, region_queue=region_queue, pixels=pixels,
            pixel_keys=pixel_keys, region_keys=region_keys,
        )  # fmt: skip
        for name, value in counts.items():
            check_count(f'CrossImageMemoryLoss: {name}', value)
        if min(pixel_weight, region_weight) < 0:
            raise ValueError(
                f'CrossImageMemoryLoss: pixel_weight={pixel_weight} and region_weight='
                f'{region_weight} must not be negative'
            )
        self.tau = tau
        self.temperature = temperature
        self.factors = dict(pixels=pixel_weight, regions=region_weight)
        self.sizes = dict(pixels=pixel_queue, regions=region_queue)
        self.drawn = dict(pixels=pixel_keys, regions=region_keys)
        self.pixels = pixels

    def prepare(self, student: Tensor, teacher: Tensor, num_classes: int) -> None:
        """Makes the projector and the queues.

        Args:
            student: [B, C, H, W].
            teacher: [B, C', H, W].
            num_classes: How many there are.
        """
        self.num_classes = num_classes
        width = teacher.shape[1]
        self.project = nn.Sequential(
            nn.Linear(student.shape[1], width, bias=False),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
        )
        self.queues = nn.ModuleDict(
            {
                name: KeyQueue(self.num_classes, size, width)
                for name, size in self.sizes.items()
                if self.factors[name]
            }
        )

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        *,
        label: Tensor,
        **context,
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C', H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells.
            label: [B, H, W], class indices; others are out.
            **context: Not used.

        Returns:
            Scalar, in nats.
        """
        return cross_image_memory_loss(
            student, teacher, label, self.num_classes, self.project, self._recall, mask, self.tau,
            self.temperature,
        )  # fmt: skip

    @torch.no_grad()
    def _recall(self, rows: Tensor, members: Tensor) -> list[tuple[Tensor, float]]:
        """Takes the batch's unit vectors [B, N, C'] of classes [B, K, N] in, and draws keys."""
        seen = members.any(2)
        regions = unit(class_means(rows, members))[seen], seen.nonzero()[:, 1]
        found = dict(pixels=self._pick(rows, members), regions=regions)
        keys = []
        for name, queue in self.queues.items():
            queue.push(*(gather_rows(x) for x in found[name]))
            vectors = queue.draw(self.drawn[name] // self.num_classes + 1)
            keys.append((vectors, self.factors[name]))
        return keys

    def _pick(self, rows: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Random pixels of each image and class: vectors [M, C'] and classes [M]."""
        dice = torch.rand_like(members[:, :1]).expand_as(members).masked_fill(members == 0, -1)
        dice, index = dice.topk(min(self.pixels, members.shape[2]), dim=2)
        picked = torch.zeros_like(members, dtype=torch.bool).scatter_(2, index, dice >= 0)
        image, kind, place = picked.nonzero(as_tuple=True)
        return rows[image, place], kind
