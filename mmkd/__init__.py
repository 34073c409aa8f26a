"""mmkd: knowledge distillation for dense prediction on the OpenMMLab stack."""

from importlib.metadata import PackageNotFoundError, distribution

from mmengine.config.utils import MODULE2PACKAGE

from .version import __version__


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


# `_base_ = 'mmseg::...'` asks for a distribution called `mmsegmentation`; where only the maintained
# continuation is installed, it is found under its own name.
if not _is_installed('mmsegmentation') and _is_installed('onedl-mmsegmentation'):
    MODULE2PACKAGE['mmseg'] = 'onedl-mmsegmentation'
MODULE2PACKAGE.setdefault('mmkd', 'mmkd')

__all__ = ['__version__']
