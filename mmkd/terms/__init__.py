"""Terms: what the student is taught, and the taps they listen at."""

from .feature_kd import FeatureKD
from .logit_kd import LogitKD

__all__ = ['FeatureKD', 'LogitKD']
