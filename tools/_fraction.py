"""A share of a training set: nested, stratified, fixed by a seed."""

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope
from rich.progress import track


def stratified_order(present: list[set[int]], seed: int) -> np.ndarray:
    """Order images so that each beginning of the order is a stratified subset.

    An image belongs to the stratum of its rarest class (the class that the fewest images show), one
    that shows nothing to a stratum of its own. Each stratum is shuffled and spread evenly over the
    order, so that among the first n images each stratum has its share of n to within one image.

    Args:
        present: The classes that each image shows.
        seed: Fixes the order.

    Returns:
        Positions of the images, ``[N]``.
    """
    counts: dict[int, int] = {}
    for classes in present:
        for label in classes:
            counts[label] = counts.get(label, 0) + 1
    strata: dict[int, list[int]] = {}
    for position, classes in enumerate(present):
        rarest = min(classes, key=lambda label: (counts[label], label), default=-1)
        strata.setdefault(rarest, []).append(position)
    rng = np.random.default_rng(seed)
    positions, places = [], []
    for rarest in sorted(strata):
        members = rng.permutation(strata[rarest])
        positions.append(members)
        places.append((np.arange(len(members)) + rng.random()) / len(members))
    return np.concatenate(positions)[np.argsort(np.concatenate(places), kind='stable')]


def classes_of(dataset, index: int) -> set[int]:
    """Give the classes that an image shows, by its boxes or by its label map.

    Raises:
        ValueError: The data set has neither.
    """
    info = dataset.get_data_info(index)
    if 'instances' in info:
        return {instance['bbox_label'] for instance in info['instances']}
    steps = [step for step in dataset.pipeline.transforms if 'Annotations' in type(step).__name__]
    if 'seg_map_path' not in info or not steps:
        raise ValueError(
            f'--fraction: {type(dataset).__name__} gives neither boxes nor label maps to stratify '
            'by: train on the whole of it'
        )
    labels = set(np.unique(steps[0](info)['gt_seg_map']).tolist())
    return labels - {dataset.metainfo.get('ignore_index', 255), 255}


def innermost(dataset: ConfigDict) -> ConfigDict:
    """Give the config of the data set inside its wrappers.

    Raises:
        ValueError: There are several.
    """
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'datasets' in dataset:
        raise ValueError(
            f'--fraction: {dataset.type} joins several data sets, of which no share is taken: '
            'name one in train_dataloader.dataset'
        )
    return dataset


def take_fraction(cfg: Config, fraction: float) -> int:
    """Keep a share of the training set: what ``indices`` of its config names.

    Subsets of one seed are nested: each contains all smaller ones. An epoch shrinks with the data;
    a schedule that counts iterations stays as long as it was.

    Args:
        cfg: Changed in place; ``randomness.seed`` fixes the subset.
        fraction: The share, above 0 and at most 1.

    Returns:
        The number of images kept, at least 1.

    Raises:
        ValueError: A share outside these bounds, no seed, or a data set that cannot be stratified.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f'--fraction must lie above 0 and at most at 1, got {fraction}')
    seed = cfg.get('randomness', {}).get('seed')
    if seed is None:
        raise ValueError(
            '--fraction needs a seed, which fixes the subset: --cfg-options randomness.seed=0'
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    target = innermost(cfg.train_dataloader.dataset)
    dataset = DATASETS.build({**target.to_dict(), 'lazy_init': False})
    everything = range(len(dataset))
    steps = track(everything, 'classes of the training images', transient=True)
    order = stratified_order([classes_of(dataset, i) for i in steps], seed)
    kept = sorted(order[: max(1, round(fraction * len(dataset)))].tolist())
    former = target.get('indices')
    target.indices = [former[i] for i in kept] if isinstance(former, list | tuple) else kept
    return len(kept)
