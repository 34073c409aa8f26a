"""Exits: branches that predict early, taught by the labels, the teacher, or both."""

from importlib.util import find_spec

if find_spec('mmseg'):
    from .seg_exit import SegExit  # noqa: F401
if find_spec('mmdet'):
    from .cross_exit import CrossExit  # noqa: F401
    from .dense_exit import DenseExit  # noqa: F401
    from .roi_exit import RoIExit  # noqa: F401
    from .semantic_exit import SemanticExit  # noqa: F401
