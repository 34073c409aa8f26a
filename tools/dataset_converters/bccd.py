"""BCCD blood cells (VOC XML) to COCO JSON, optionally shrunk to the training size.

Expects the public download as it is unpacked, https://github.com/Shenggan/BCCD_Dataset::

    SRC/BCCD/{JPEGImages/*.jpg, Annotations/*.xml, ImageSets/Main/{train,val,test}.txt}

and writes `OUT/images/*.jpg` and `OUT/annotations/{train,val,test}.json`. Boxes shrink with the
images, so that nothing needs resizing or large JPEG decoding while training. An image that is
there already in the right size is not written again.

    python tools/dataset_converters/bccd.py path/to/BCCD_Dataset data/bccd --width 192
"""

import argparse
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2

CLASSES = ('RBC', 'WBC', 'Platelets')
SPLITS = ('train', 'val', 'test')


def read_boxes(xml_file: Path) -> list[tuple[int, list[float]]]:
    """Read one VOC file.

    Returns:
        For each object its class index and `[x1, y1, x2, y2]` in pixels of the original image.

    Raises:
        ValueError: An object has a class that BCCD does not have.
    """
    boxes = []
    for obj in ET.parse(xml_file).getroot().iter('object'):
        name = obj.findtext('name')
        if name not in CLASSES:
            raise ValueError(f'{xml_file}: class {name!r} is none of {", ".join(CLASSES)}')
        corners = [float(obj.findtext(f'bndbox/{key}')) for key in ('xmin', 'ymin', 'xmax', 'ymax')]
        boxes.append((CLASSES.index(name), corners))
    return boxes


def shrink(src: Path, dst: Path, width: int | None) -> tuple[int, int, float, float]:
    """Write `src` to `dst` with the given width in pixels (None: unchanged), aspect ratio kept.

    Returns:
        Width and height written, and the factors on x and y.

    Raises:
        ValueError: The image cannot be read.
    """
    image = cv2.imread(str(src))
    if image is None:
        raise ValueError(f'{src}: not a readable image; unpack the download again')
    old_h, old_w = image.shape[:2]
    new_w = width or old_w
    new_h = round(old_h * new_w / old_w)
    done = cv2.imread(str(dst)) if dst.exists() else None
    if done is None or done.shape[:2] != (new_h, new_w):
        image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(dst), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return new_w, new_h, new_w / old_w, new_h / old_h


def convert_split(src: Path, out: Path, split: str, width: int | None) -> dict:
    """Write one split's images and return its COCO dictionary."""
    stems = (src / 'ImageSets' / 'Main' / f'{split}.txt').read_text().split()
    images, annotations = [], []
    for image_id, stem in enumerate(stems, 1):
        file_name = f'{stem}.jpg'
        w, h, fx, fy = shrink(src / 'JPEGImages' / file_name, out / 'images' / file_name, width)
        images.append(dict(id=image_id, file_name=file_name, width=w, height=h))
        for label, (x1, y1, x2, y2) in read_boxes(src / 'Annotations' / f'{stem}.xml'):
            x1, x2 = max(x1 * fx, 0), min(x2 * fx, w)
            y1, y2 = max(y1 * fy, 0), min(y2 * fy, h)
            if x2 <= x1 or y2 <= y1:
                continue
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=[round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
                    area=round((x2 - x1) * (y2 - y1), 3),
                    iscrowd=0,
                )
            )
        print(f'\r{split}: {image_id}/{len(stems)} images', end='', flush=True)
    print(f', {len(annotations)} boxes')
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def main() -> None:
    """Convert all splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', type=Path, help='the unpacked download, which holds BCCD/')
    parser.add_argument('out', type=Path, help='folder to write, for the configs data/bccd')
    parser.add_argument('--width', type=int, help='shrink to this width (default: leave as is)')
    args = parser.parse_args()
    src = args.src / 'BCCD'
    if not (src / 'ImageSets' / 'Main').is_dir():
        parser.error(f'{src}/ImageSets/Main is missing: SRC must be the folder that holds BCCD/')
    (args.out / 'images').mkdir(parents=True, exist_ok=True)
    (args.out / 'annotations').mkdir(exist_ok=True)
    for split in SPLITS:
        coco = convert_split(src, args.out, split, args.width)
        (args.out / 'annotations' / f'{split}.json').write_text(json.dumps(coco))


if __name__ == '__main__':
    main()
