"""The demo's pictures: image, ground truth and what each model sees, side by side."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

matplotlib.use('Agg')
import matplotlib.pyplot as plt

# Scenes that are shown: every tenth of those that hold at least three digits.
ROWS = 4
EVERY = 10
DIGITS = 3
MIN_SCORE = 0.3
COLOURS = np.array(plt.get_cmap('tab10').colors)


def load_plain_model(config: Path, weights: Path) -> nn.Module:
    """Build a stock model and load a checkpoint strictly; its config stays on it as ``cfg``."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(weights), map_location='cpu', strict=True, logger='silent')
    model.cfg = cfg
    return model.eval()


def draw_detection(models: dict[str, nn.Module], file: Path) -> None:
    """Draw the boxes of each model beside the ground truth.

    Args:
        models: Models by the title of their column.
        file: The picture to write.
    """

    def enough(sample) -> bool:
        return len(sample.gt_instances) >= DIGITS

    def show_truth(axis, sample) -> None:
        show_boxes(axis, sample.gt_instances.bboxes.tensor, sample.gt_instances.labels)

    def show_prediction(axis, sample) -> None:
        found = sample.pred_instances
        found = found[found.scores >= MIN_SCORE]
        show_boxes(axis, found.bboxes, found.labels)

    _draw(models, file, enough, show_truth, show_prediction)


def draw_segmentation(models: dict[str, nn.Module], file: Path) -> None:
    """Draw the mask of each model beside the ground truth.

    Args:
        models: Models by the title of their column.
        file: The picture to write.
    """

    def enough(sample) -> bool:
        return len(sample.gt_sem_seg.data.unique()) > DIGITS

    def show_truth(axis, sample) -> None:
        show_mask(axis, sample.gt_sem_seg.data[0])

    def show_prediction(axis, sample) -> None:
        show_mask(axis, sample.pred_sem_seg.data[0])

    _draw(models, file, enough, show_truth, show_prediction)


def show_boxes(axis, boxes: torch.Tensor, labels: torch.Tensor) -> None:
    """Draw boxes ``[N, 4]`` (x1, y1, x2, y2 in pixels) with their digits ``[N]``."""
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist()):
        frame = dict(fill=False, edgecolor=COLOURS[label], linewidth=1.5)
        axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, **frame))
        tag = dict(facecolor=COLOURS[label], edgecolor='none', pad=0.8)
        axis.text(x1, y1, label, color='white', fontsize=8, weight='bold', bbox=tag, clip_on=True)


def show_mask(axis, mask: torch.Tensor) -> None:
    """Lay the colours of the digits over the image; ``mask`` is ``[H, W]``, 0 is ground."""
    mask = mask.numpy()
    paint = np.zeros((*mask.shape, 4))
    ink = mask > 0
    paint[ink, :3] = COLOURS[mask[ink] - 1]
    paint[ink, 3] = 0.9
    axis.imshow(paint)
    for label in np.unique(mask[ink]):
        ys, xs = np.nonzero(mask == label)
        if len(ys) >= 30:
            middle = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
            place = dict(ha='center', va='center', fontsize=8, weight='bold', color='white')
            axis.text(xs[middle], ys[middle], label - 1, **place)


@torch.no_grad()
def _draw(
    models: dict[str, nn.Module],
    file: Path,
    enough: Callable,
    show_truth: Callable,
    show_prediction: Callable,
) -> None:
    cfg = next(iter(models.values())).cfg
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    items = (dataset[i] for i in range(len(dataset)))
    chosen = [item for item in items if enough(item['data_samples'])]
    chosen = chosen[::EVERY][:ROWS]
    titles = ['image', 'ground truth', *models]
    size = (2 * len(titles), 2 * len(chosen) + 0.4)
    figure, grid = plt.subplots(len(chosen), len(titles), figsize=size, squeeze=False)
    for row, item in zip(grid, chosen):
        image = item['inputs'].numpy()[::-1].transpose(1, 2, 0)
        for axis in row:
            axis.imshow(image)
            axis.set_axis_off()
        show_truth(row[1], item['data_samples'])
        for axis, model in zip(row[2:], models.values()):
            sample = item['data_samples'].clone()
            batch = dict(inputs=[item['inputs']], data_samples=[sample])
            show_prediction(axis, model.test_step(batch)[0])
    for axis, title in zip(grid[0], titles):
        axis.set_title(title, fontsize=10)
    figure.tight_layout(pad=0.3)
    figure.savefig(file, dpi=120)
    plt.close(figure)
