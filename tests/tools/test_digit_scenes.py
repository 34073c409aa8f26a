"""DigitScenes: determinism, disjoint splits, and annotations that agree with each other."""

import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'tools'))

from dataset_converters.digit_scenes import (  # noqa: E402
    main,
    split_digits,
    split_photos,
    write_digit_scenes,
)

SMALL = dict(train=4, val=3, size=(96, 80), seed=7)


def digests(folder: Path) -> dict[str, str]:
    """Give a digest of each file by its path in the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob('*')
        if path.is_file()
    }


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    """Write a small data set."""
    folder = tmp_path_factory.mktemp('scenes')
    assert write_digit_scenes(folder, **SMALL)
    return folder


def test_same_arguments_give_the_same_bytes(scenes, tmp_path):
    write_digit_scenes(tmp_path, **SMALL)
    assert digests(tmp_path) == digests(scenes)
    assert len(digests(scenes)) == 2 * (4 + 3) + 2 + 1


def test_another_seed_gives_other_scenes(scenes, tmp_path):
    write_digit_scenes(tmp_path, **{**SMALL, 'seed': 8})
    name = 'images/train/000000.jpg'
    assert digests(tmp_path)[name] != digests(scenes)[name]


def test_a_longer_data_set_begins_with_the_shorter(scenes, tmp_path):
    write_digit_scenes(tmp_path, **{**SMALL, 'train': 6})
    longer, shorter = digests(tmp_path), digests(scenes)
    pictures = [name for name in shorter if name.endswith(('.jpg', '.png'))]
    assert all(longer[name] == shorter[name] for name in pictures)


def test_nothing_is_written_twice(tmp_path):
    assert write_digit_scenes(tmp_path, **SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    assert not write_digit_scenes(tmp_path, **SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    assert write_digit_scenes(tmp_path, **{**SMALL, 'val': 2})


def test_fewer_scenes_leave_none_of_the_old_ones(tmp_path):
    write_digit_scenes(tmp_path, **SMALL)
    write_digit_scenes(tmp_path, **{**SMALL, 'train': 2})
    assert len(list((tmp_path / 'images' / 'train').iterdir())) == 2
    assert len(list((tmp_path / 'ann_dir' / 'train').iterdir())) == 2


def test_splits_share_neither_digits_nor_photographs(scenes):
    rows = {split: set(split_digits(split)[2]) for split in ('train', 'val')}
    assert not rows['train'] & rows['val']
    assert len(rows['train'] | rows['val']) == 1797
    for photo, train, val in zip(
        load_sample_images().images, split_photos('train'), split_photos('val')
    ):
        np.testing.assert_array_equal(np.concatenate([train, val], axis=1), photo)
    for split in ('train', 'val'):
        coco = json.loads((scenes / 'annotations' / f'{split}.json').read_text())
        used = {annotation['source_row'] for annotation in coco['annotations']}
        assert used and used <= {int(row) for row in rows[split]}


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_and_masks_tell_the_same(scenes, split):
    coco = json.loads((scenes / 'annotations' / f'{split}.json').read_text())
    for image in coco['images']:
        stem = Path(image['file_name']).stem
        photo = cv2.imread(str(scenes / 'images' / split / image['file_name']))
        mask = cv2.imread(str(scenes / 'ann_dir' / split / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
        assert photo.shape == (80, 96, 3)
        assert mask.shape == (80, 96) and mask.dtype == np.uint8
        found = [a for a in coco['annotations'] if a['image_id'] == image['id']]
        inside = np.zeros(mask.shape, bool)
        for annotation in found:
            x, y, w, h = annotation['bbox']
            assert 0 <= x < x + w <= 96 and 0 <= y < y + h <= 80
            window = mask[y : y + h, x : x + w]
            assert np.count_nonzero(window == annotation['category_id']) >= annotation['area'] > 0
            inside[y : y + h, x : x + w] = True
        assert not mask[~inside].any()
        assert np.count_nonzero(mask) == sum(annotation['area'] for annotation in found)


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(size=(8, 96)), '--size 8 96'),
        (dict(size=(96, 400)), '--size 96 400'),
        (dict(train=-1), 'train=-1'),
    ],
)
def test_wrong_arguments_are_named(tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words):
        write_digit_scenes(tmp_path / 'out', **{**SMALL, **wrong})
    assert not (tmp_path / 'out').exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    mine = tmp_path / 'images' / 'train' / 'mine.jpg'
    mine.parent.mkdir(parents=True)
    mine.write_text('mine')
    with pytest.raises(ValueError, match='name another folder'):
        write_digit_scenes(tmp_path, **SMALL)
    assert mine.read_text() == 'mine'


def test_command_line(tmp_path, monkeypatch, capsys):
    arguments = ['--train', '1', '--val', '1', '--size', '64', '64', '--seed', '3']
    monkeypatch.setattr(sys, 'argv', ['digit_scenes.py', str(tmp_path), *arguments])
    main()
    main()
    assert capsys.readouterr().out.splitlines() == [
        f'{tmp_path}: written',
        f'{tmp_path}: already there, nothing to do',
    ]
