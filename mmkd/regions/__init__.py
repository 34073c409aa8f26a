"""Regions: where a feature term teaches, as weight maps ``[B, 1, H, W]``.

Ignored and padded cells are always out, whatever the region says.
"""

from .box_region import BoxRegion
from .confidence_region import ConfidenceRegion
from .foreground_region import ForegroundRegion

__all__ = ['BoxRegion', 'ConfidenceRegion', 'ForegroundRegion']
