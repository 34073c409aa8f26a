"""Families: all that knows the insides of mmdet's and mmseg's models.

A user with only one of the two libraries uses mmkd with that one, so each family is imported only
where its library is installed.
"""

from importlib.util import find_spec

from torch import nn

from mmkd.registry import FAMILIES

from .foundation import Foundation  # noqa: F401

if find_spec('mmseg'):
    from .branched_segmentor import BranchedSegmentor  # noqa: F401
    from .segmentor import Segmentor  # noqa: F401
if find_spec('mmdet'):
    from .dense_detector import DenseDetector  # noqa: F401
    from .detector import Detector  # noqa: F401
    from .mask_query_detector import MaskQueryDetector  # noqa: F401
    from .query_detector import QueryDetector  # noqa: F401
    from .two_stage import TwoStage  # noqa: F401
if find_spec('mmseg') and find_spec('mmdet'):
    from .mask_query import MaskQuerySegmentor  # noqa: F401


def find_family(model: nn.Module):
    """The most specific family that knows this model; among equals the one registered last.

    Raises:
        ValueError: if none does.
    """
    latest_first = reversed(FAMILIES.module_dict.values())
    for family in sorted(latest_first, key=lambda f: -f.specificity):
        if family.knows(model):
            return family(model)
    raise ValueError(
        f'no family knows {type(model).__name__}; mmkd distils mmdet detectors and mmseg '
        f'segmentors (known: {", ".join(sorted(FAMILIES.module_dict))}); register a family of your '
        'own in mmkd.registry.FAMILIES for another'
    )
