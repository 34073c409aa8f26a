"""Puts this folder on the path, since tests share ``toys.py``, and keeps tests apart."""

import pytest
import torch
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def apart():
    """One thread, and no default scope that an earlier test has left behind."""
    torch.set_num_threads(1)
    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()
