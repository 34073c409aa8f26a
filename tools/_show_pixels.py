"""What tools/show.py draws of segmentors: classes of pixels, and where two students differ."""

import numpy as np
import torch
import torch.nn.functional as F
from _show_sheet import Legend, fit, greyed
from mmengine.structures import PixelData

MENDED, MADE, LEFT = (0, 114, 178), (213, 94, 0), (90, 90, 90)
_NAMES = dict(
    mended=('mended: wrong alone, right now', MENDED),
    made=('made: right alone, wrong now', MADE),
    left=('left: wrong alone and now', LEFT),
    wrong=('wrong', MADE),
)


def pixel_errors(truth, after, before=None, ignored: int = 255) -> dict[str, np.ndarray]:
    """Where a student errs, and where it did before.

    Args:
        truth: Labels ``[H, W]``.
        after: Predicted classes ``[H, W]`` of the student.
        before: Those of the student it is compared to.
        ignored: The label of pixels that do not count.

    Returns:
        dict[str, np.ndarray]: Masks ``[H, W]``: ``mended``, ``made`` and ``left``, or ``wrong``
        where there is no other student.
    """
    counts = truth != ignored
    wrong = (after != truth) & counts
    if before is None:
        return dict(wrong=wrong)
    was = (before != truth) & counts
    return dict(mended=was & ~wrong, made=wrong & ~was, left=wrong & was)


class Pixels:
    """Draws labels and predictions of pixels.

    Args:
        visualizer: One of mmseg's.
        classes: Names of the classes.
        palette: Colours ``(r, g, b)`` of the classes.
        side: Pixels of the longer side of what is drawn.
        ignored: The label of pixels that do not count.
    """

    def __init__(self, visualizer, classes, palette, side: int, ignored: int = 255) -> None:
        visualizer.dataset_meta = dict(classes=classes, palette=palette)
        self.visualizer = visualizer
        self.classes = classes
        self.palette = palette
        self.side = side
        self.ignored = ignored
        self._seen = set()

    def truth(self, dataset, index: int, sample) -> np.ndarray | None:
        """Labels ``[H, W]`` of an image, or ``None`` if there are none."""
        return sample.gt_sem_seg.data[0].numpy() if 'gt_sem_seg' in sample else None

    def count(self, truth: np.ndarray) -> int:
        """How many classes beside the first there are."""
        return len(np.setdiff1d(truth, [0, self.ignored]))

    def draw_truth(self, image: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, str]:
        """An image with its labels, and a note."""
        return self._paint(image, truth), 'the labels'

    def draw(self, image: np.ndarray, sample, truth=None) -> tuple[np.ndarray, str]:
        """An image with a prediction, and how much of it is right."""
        found = _classes(sample)
        note = ''
        if truth is not None:
            counts = truth != self.ignored
            right = (found == truth)[counts].mean() if counts.any() else 1.0
            note = f'{100 * right:.1f} % of pixels right'
        return self._paint(image, found), note

    def draw_errors(self, image, truth, after, before=None) -> tuple[np.ndarray, str]:
        """An image with a student's errors, and how many they are."""
        found = _classes(after)
        masks = pixel_errors(
            truth, found, None if before is None else _classes(before), self.ignored
        )
        total = max(1, int((truth != self.ignored).sum()))
        note = ', '.join(f'{name} {100 * m.sum() / total:.1f} %' for name, m in masks.items())
        canvas, _ = fit(image, self.side)
        self.visualizer.set_image(greyed(canvas))
        self.visualizer.draw_binary_masks(
            np.stack([_resize(m, canvas) for m in masks.values()]).astype(bool),
            colors=[_NAMES[name][1] for name in masks],
            alphas=0.85,
        )
        return self.visualizer.get_image(), note

    def legends(self, errors: str | None) -> list[Legend]:
        """What the colours mean; ``errors``: ``'one'``, ``'two'`` students, or ``None``."""
        seen = [c for c in range(len(self.classes)) if c in self._seen]
        legends = [Legend('classes', [(self.classes[c], self.palette[c], None) for c in seen])]
        if errors:
            names = ['wrong'] if errors == 'one' else ['mended', 'made', 'left']
            legends.append(Legend('errors, by pixel', [(*_NAMES[name], None) for name in names]))
        return legends

    def _paint(self, image: np.ndarray, classes: np.ndarray) -> np.ndarray:
        from mmseg.structures import SegDataSample

        self._seen |= set(np.unique(classes).tolist())
        canvas, _ = fit(image, self.side)
        mask = torch.from_numpy(_resize(classes, canvas))[None]
        sample = SegDataSample(pred_sem_seg=PixelData(data=mask))
        self.visualizer.add_datasample('sheet', canvas, sample, draw_gt=False, with_labels=False)
        return self.visualizer.get_image()


def _classes(sample) -> np.ndarray:
    return sample.pred_sem_seg.data[0].cpu().numpy()


def _resize(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A mask ``[H, W]`` at the size of an image, by the nearest pixel."""
    scaled = torch.from_numpy(mask.astype(np.float32))[None, None]
    return F.interpolate(scaled, image.shape[:2], mode='nearest')[0, 0].numpy().astype(np.int64)
