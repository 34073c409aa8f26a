"""Terms: what the student is taught, and the taps they listen at."""

from .cross_kd import CrossKD
from .feature_kd import FeatureKD
from .gradient_share import GradientShare
from .logit_kd import LogitKD

__all__ = ['CrossKD', 'FeatureKD', 'GradientShare', 'LogitKD']
