"""DigitScenes: real handwritten digits on real photographs, for detection and segmentation.

The digits are scikit-learn's ``load_digits`` (1,797 scans of 8x8 cells, Alpaydin and Kaynak, 1998),
the grounds are crops of scikit-learn's two sample photographs. Both come inside its wheel, so
nothing is downloaded. Training and validation share neither a digit nor a part of a photograph.
Scene ``i`` of a split depends on the seed and ``i`` alone: the same call writes the same bytes, and
a longer data set begins with the shorter one.

    python tools/dataset_converters/digit_scenes.py data/digits --train 4000 --val 300
"""

import argparse
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits, load_sample_images

CLASSES = tuple(str(digit) for digit in range(10))
SPLITS = ('train', 'val')
TRAIN_SHARE = 0.75
MIN_SIDE, MAX_SIDE = 26, 64
MIN_VISIBLE = 0.85
FORMAT = 1


def split_digits(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the digits of one split.

    Args:
        split: ``'train'`` or ``'val'``.

    Returns:
        Their ink in 0..1 ``[N, 8, 8]``, their labels ``[N]``, and their rows in ``load_digits``.
    """
    source = load_digits()
    order = np.random.default_rng(0).permutation(len(source.target))
    cut = int(TRAIN_SHARE * len(order))
    rows = order[:cut] if split == 'train' else order[cut:]
    return source.images[rows].astype(np.float32) / 16, source.target[rows], rows


def split_photos(split: str) -> list[np.ndarray]:
    """Give the part of each photograph that belongs to one split: the left or the right one.

    Args:
        split: ``'train'`` or ``'val'``.

    Returns:
        RGB images ``[H, W, 3]``, uint8.
    """
    parts = []
    for photo in load_sample_images().images:
        cut = int(TRAIN_SHARE * photo.shape[1])
        parts.append(photo[:, :cut] if split == 'train' else photo[:, cut:])
    return parts


def draw_ground(
    photos: list[np.ndarray], width: int, height: int, rng: np.random.Generator
) -> np.ndarray:
    """Cut a random window of a photograph, brought to the scene's size: ``[height, width, 3]``."""
    photo = photos[rng.integers(len(photos))]
    largest = min(photo.shape[0] / height, photo.shape[1] / width)
    zoom = largest * rng.uniform(0.4, 1.0)
    crop_h, crop_w = max(1, int(height * zoom)), max(1, int(width * zoom))
    top = rng.integers(photo.shape[0] - crop_h + 1)
    left = rng.integers(photo.shape[1] - crop_w + 1)
    crop = photo[top : top + crop_h, left : left + crop_w]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    ground = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=cv2.INTER_AREA)
    return ground.astype(np.float32) * rng.uniform(0.7, 1.1)


def draw_ink(cells: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Enlarge one digit smoothly, turned and slanted a little.

    Args:
        cells: Ink of one scan in 0..1, ``[8, 8]``.
        side: Side of the result in pixels.
        rng: Source of the turn and the slant.

    Returns:
        Opacity in 0..1, ``[side, side]``.
    """
    scale = side / 10
    angle, slant = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(-0.1, 0.1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * turn @ np.array([[rng.uniform(0.8, 1.0), slant], [0, 1.0]])
    shift = np.full(2, (side - 1) / 2) - matrix @ np.full(2, 3.5)
    affine = np.hstack([matrix, shift[:, None]])
    smooth = cv2.warpAffine(cells, affine, (side, side), flags=cv2.INTER_CUBIC)
    edge = np.clip((smooth - 0.3) / 0.3, 0, 1)
    return edge * edge * (3 - 2 * edge)


def draw_scene(
    digits: tuple[np.ndarray, np.ndarray, np.ndarray],
    photos: list[np.ndarray],
    width: int,
    height: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Compose one scene; later digits lie over earlier ones.

    Args:
        digits: What :func:`split_digits` gives.
        photos: What :func:`split_photos` gives.
        width: Width of the scene in pixels.
        height: Height of the scene in pixels.
        rng: The scene's own source of randomness.

    Returns:
        The image (RGB, uint8) ``[height, width, 3]``, the mask (uint8, 0 is ground, digit ``d`` is
        ``d + 1``) ``[height, width]``, and the digits: ``label``, ``bbox`` (x, y, w, h in pixels,
        around all of its ink), ``area`` (visible ink in pixels) and ``row`` in ``load_digits``.
    """
    cells, labels, rows = digits
    image = draw_ground(photos, width, height, rng)
    owner = np.full((height, width), -1)
    placed = []
    largest = min(MAX_SIDE, width, height)
    for _ in range(rng.integers(2, 7)):
        pick = rng.integers(len(labels))
        side = int(np.exp(rng.uniform(np.log(MIN_SIDE), np.log(largest + 1))))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        alpha = draw_ink(cells[pick], side, rng)
        ink = np.zeros((height, width), bool)
        ink[top : top + side, left : left + side] = alpha > 0.5
        tone, contrast = rng.uniform(-25, 25, size=3), rng.uniform(80, 170)
        visible = [np.count_nonzero((owner == i) & ~ink) for i in range(len(placed))]
        if any(v < MIN_VISIBLE * p['ink'] for v, p in zip(visible, placed)):
            continue
        window = image[top : top + side, left : left + side]
        ground = window.mean()
        sign = 1 if ground < 127 else -1
        colour = np.clip(ground + sign * contrast + tone, 0, 255)
        opacity = (alpha * rng.uniform(0.8, 1.0))[..., None]
        window[:] = window * (1 - opacity) + colour * opacity
        owner[ink] = len(placed)
        ys, xs = np.nonzero(ink)
        box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
        placed.append(
            dict(
                label=int(labels[pick]),
                bbox=[int(v) for v in box],
                ink=int(ink.sum()),
                row=int(rows[pick]),
            )
        )
    for i, digit in enumerate(placed):
        digit['area'] = int(np.count_nonzero(owner == i))
        del digit['ink']
    colours = np.array([0] + [digit['label'] + 1 for digit in placed], np.uint8)
    noisy = image + rng.normal(0, 4, size=image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), colours[owner + 1], placed


def write_split(out: Path, split: str, count: int, width: int, height: int, seed: int) -> None:
    """Write images, masks and the COCO file of one split.

    Args:
        out: Folder of the data set.
        split: ``'train'`` or ``'val'``.
        count: Number of scenes.
        width: Width of a scene in pixels.
        height: Height of a scene in pixels.
        seed: Seed of the data set.
    """
    digits, photos = split_digits(split), split_photos(split)
    for folder in ('images', 'ann_dir'):
        shutil.rmtree(out / folder / split, ignore_errors=True)
        (out / folder / split).mkdir(parents=True)
    (out / 'annotations').mkdir(exist_ok=True)
    images, annotations = [], []
    for i in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), i])
        image, mask, placed = draw_scene(digits, photos, width, height, rng)
        name = f'{i:06d}'
        cv2.imwrite(
            str(out / 'images' / split / f'{name}.jpg'),
            image[..., ::-1],
            [cv2.IMWRITE_JPEG_QUALITY, 95],
        )
        cv2.imwrite(str(out / 'ann_dir' / split / f'{name}.png'), mask)
        images.append(dict(id=i, file_name=f'{name}.jpg', width=width, height=height))
        for digit in placed:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i,
                    category_id=digit['label'] + 1,
                    bbox=digit['bbox'],
                    area=digit['area'],
                    iscrowd=0,
                    source_row=digit['row'],
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (out / 'annotations' / f'{split}.json').write_text(json.dumps(coco))


def write_digit_scenes(
    out: Path | str,
    train: int = 4000,
    val: int = 300,
    size: tuple[int, int] = (96, 96),
    seed: int = 0,
) -> bool:
    """Write the data set, unless it is there already.

    Args:
        out: Folder to write to.
        train: Number of training scenes.
        val: Number of validation scenes.
        size: Width and height of a scene in pixels.
        seed: Any whole number that is not negative.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: If a count or the seed is negative, or a side is shorter than the smallest digit
            or longer than what the validation part of the photographs holds, or if the folder
            holds something else.
    """
    if min(train, val, seed) < 0:
        raise ValueError(
            f'train={train}, val={val} and seed={seed} have to be 0 or more; give other numbers'
        )
    width, height = size
    limit = min(min(photo.shape[:2]) for photo in split_photos('val'))
    if not MIN_SIDE <= min(size) <= max(size) <= limit:
        raise ValueError(
            f'--size {width} {height} does not work; give sides of {MIN_SIDE} to {limit} pixels'
        )
    out = Path(out)
    wanted = dict(
        format=FORMAT, train=train, val=val, size=[width, height], seed=seed, classes=list(CLASSES)
    )
    manifest = out / 'manifest.json'
    if manifest.exists() and json.loads(manifest.read_text()) == wanted:
        return False
    if out.exists() and any(out.iterdir()) and not manifest.exists():
        raise ValueError(f'{out} holds files that are no DigitScenes; name another folder')
    out.mkdir(parents=True, exist_ok=True)
    manifest.write_text('{}')
    for split, count in zip(SPLITS, (train, val)):
        write_split(out, split, count, width, height, seed)
    manifest.write_text(json.dumps(wanted))
    return True


def main() -> None:
    """Write the data set that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write to, such as data/digits')
    parser.add_argument('--train', type=int, default=4000, help='number of training scenes')
    parser.add_argument('--val', type=int, default=300, help='number of validation scenes')
    parser.add_argument('--size', type=int, nargs=2, default=(96, 96), metavar=('W', 'H'))
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    try:
        written = write_digit_scenes(args.out, args.train, args.val, tuple(args.size), args.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f'{args.out}: {"written" if written else "already there, nothing to do"}')


if __name__ == '__main__':
    main()
