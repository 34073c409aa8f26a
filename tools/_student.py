"""What the export tools share: the stock config and the trained student."""

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import nn

from mmkd.distillers.checkpoint import Checkpoint, load_strict
from mmkd.distillers.model_source import find_config
from mmkd.hooks.distill import student_config
from mmkd.registry import build_in_scope


def stock_config(path: str) -> Config:
    """Read a config; of a distillation, its student's.

    A top-level ``data_preprocessor`` moves into the model: the runner would hand it over, but
    stock inference builds ``model`` alone.

    Args:
        path: a file, or ``'package::path'``.

    Raises:
        ValueError: there is no such file, or no model in it.
    """
    cfg = Config.fromfile(find_config(path))
    if not isinstance(cfg.get('model'), dict):
        raise ValueError(f'the config {path!r} has no model dict: give one that defines a model')
    cfg = student_config(cfg)
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.pop('data_preprocessor'))
    return cfg


def trained_student(cfg: Config, checkpoint: Checkpoint) -> nn.Module:
    """Build a stock config's model and fill it, on the CPU, in eval mode.

    Raises:
        ValueError: the model cannot be built, or the weights leave any of it unfilled.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model = build_in_scope(cfg.model, 'the student')
    load_strict(model, checkpoint, 'the student')
    return revert_sync_batchnorm(model).eval()
