"""Clothing photographs with eight kinds of clothing and body to mmseg's layout, shrunk if wanted.

CCP8 is Clothing Co-Parsing (Yang et al., CVPR 2014, 1,004 photographs with pixel labels) with its
59 labels merged to 8 and background. Expected are the merged masks, already split::

    SRC/classes.txt                        nine names, one a line, background first
    SRC/img_dir/{train,val,test}/*.jpg
    SRC/ann_dir/{train,val,test}/*.png     one channel, index of the class, 255 = ignored

Written is the same tree under OUT, images shrunk by area, masks by the nearest pixel. A file that
is there already in the right size is not written again.

    python tools/dataset_converters/ccp8.py path/to/ccp8 data/ccp8 --width 104
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

SPLITS = ('train', 'val', 'test')
IGNORED = 255


def read(path: Path, flag: int) -> np.ndarray:
    """Read an image file or say which one is broken."""
    image = cv2.imread(str(path), flag)
    if image is None:
        raise ValueError(f'{path}: missing or not a readable image; unpack the download again')
    return image


def write(path: Path, image: np.ndarray, width: int | None, interpolation: int) -> None:
    """Write `image` with the given width in pixels (None: unchanged), aspect ratio kept."""
    h, w = image.shape[:2]
    size = (width or w, round(h * (width or w) / w))
    done = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.exists() else None
    if done is None or done.shape[1::-1] != size:
        image = cv2.resize(image, size, interpolation=interpolation)
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


def convert_split(src: Path, out: Path, split: str, num_classes: int, width: int | None) -> None:
    """Write the images and masks of one split.

    Raises:
        ValueError: A mask is missing, of another size than its image, or holds an unknown class.
    """
    for folder in ('img_dir', 'ann_dir'):
        (out / folder / split).mkdir(parents=True, exist_ok=True)
    files = sorted((src / 'img_dir' / split).glob('*.jpg'))
    for count, file in enumerate(files, 1):
        image = read(file, cv2.IMREAD_COLOR)
        mask_file = src / 'ann_dir' / split / f'{file.stem}.png'
        mask = read(mask_file, cv2.IMREAD_UNCHANGED)
        if mask.shape != image.shape[:2]:
            raise ValueError(f'{mask_file}: shape {mask.shape}, its image has {image.shape[:2]}')
        unknown = set(np.unique(mask).tolist()) - set(range(num_classes)) - {IGNORED}
        if unknown:
            raise ValueError(f'{mask_file}: labels {sorted(unknown)}, of {num_classes} classes')
        write(out / 'img_dir' / split / file.name, image, width, cv2.INTER_AREA)
        write(out / 'ann_dir' / split / mask_file.name, mask, width, cv2.INTER_NEAREST_EXACT)
        print(f'\r{split}: {count}/{len(files)} images', end='', flush=True)
    print()


def main() -> None:
    """Convert all splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', type=Path, help='folder that holds classes.txt, img_dir, ann_dir')
    parser.add_argument('out', type=Path, help='folder to write, for the configs data/ccp8')
    parser.add_argument('--width', type=int, help='shrink to this width (default: leave as is)')
    args = parser.parse_args()
    for needed in ('classes.txt', 'img_dir/train', 'ann_dir/train'):
        if not (args.src / needed).exists():
            parser.error(f'{args.src / needed} is missing: see --help for the expected layout')
    names = (args.src / 'classes.txt').read_text().split()
    for split in SPLITS:
        convert_split(args.src, args.out, split, len(names), args.width)
    (args.out / 'classes.txt').write_text('\n'.join(names) + '\n')


if __name__ == '__main__':
    main()
