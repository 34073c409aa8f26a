"""What ``custom_imports = dict(imports=['mmkd_example'])`` registers."""

from .exit import HeatmapExit
from .family import CenterNetFamily
from .loss import HuberFeatureLoss
from .region import CentreRegion

__all__ = ['CenterNetFamily', 'CentreRegion', 'HeatmapExit', 'HuberFeatureLoss']
