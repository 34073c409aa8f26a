"""What a figure is of: a config, a teacher's weights, a commit and a machine."""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import threading
from pathlib import Path

import torch
from _common import ROOT
from mmengine.config import Config, DictAction

from mmkd.distillers.checkpoint import read_checkpoint

_reading = threading.Lock()  # mmengine imports a config through the global module table


def weights_hash(path: str) -> str:
    """Hash the weights in a file: names and values, so that a teacher trained again is the same.

    What else is in the file (dates, paths, optimizer) does not count.
    """
    digest = hashlib.sha256()
    for name, value in sorted(read_checkpoint(path).state_dict.items()):
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def resolve(config: Path, options: list[str]) -> Config:
    """Read a config and apply ``--cfg-options``."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='*', action=DictAction)
    with _reading:
        cfg = Config.fromfile(config)
    cfg.merge_from_dict(parser.parse_args(['--options', *options]).options)
    return cfg


def config_hash(cfg: Config) -> str:
    """Hash what a config means: sorted keys, no work dir, no seed, no path of this machine."""
    content = cfg.to_dict()
    for key in ('work_dir', 'launcher', 'resume'):
        content.pop(key, None)
    content['randomness'] = {k: v for k, v in content.get('randomness', {}).items() if k != 'seed'}
    text = json.dumps(content, sort_keys=True, default=lambda value: getattr(value, '__name__', ''))
    for folder in (ROOT, Path.cwd()):
        text = text.replace(f'{folder}{os.sep}', '')
    return hashlib.sha256(text.encode()).hexdigest()


def teacher_hash(cfg: Config) -> str | dict[str, str] | None:
    """Hash the teacher's weights where they are a file; several teachers give a dict."""
    teacher = cfg.model.get('teacher')
    if not isinstance(teacher, dict):
        return None
    single = 'config' in teacher or 'checkpoint' in teacher
    hashes = {}
    for name, source in ({'': teacher} if single else teacher).items():
        path = source.get('checkpoint') if isinstance(source, dict) else None
        if path and Path(path).is_file():
            hashes[name] = weights_hash(path)
    return hashes.get('') if single else hashes or None


def identify(cfg: Config) -> dict:
    return dict(config_hash=config_hash(cfg), teacher_sha256=teacher_hash(cfg))


def describe_machine() -> dict:
    """Say on what a run was trained."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    machine = dict(
        cpu=models[0] if models else platform.processor() or platform.machine(),
        threads=int(environment()['OMP_NUM_THREADS']),
        torch=torch.__version__,
    )
    if torch.cuda.is_available():
        machine['gpu'] = torch.cuda.get_device_name()
    return machine


def describe_commit() -> tuple[str | None, bool]:
    """Give the repository's short commit and whether tracked files differ from it.

    Those under ``docs`` do not count: a comparison writes its own tables there.
    """

    def git(*args: str) -> str:
        done = subprocess.run(['git', '-C', str(ROOT), *args], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ''

    head = git('rev-parse', '--short', 'HEAD')
    files = ('.', ':(exclude)docs')
    return head or None, bool(git('status', '--porcelain', '--untracked-files=no', '--', *files))


def environment() -> dict[str, str]:
    """Give the variables that a run starts with: one thread, unless the user says otherwise."""
    return {'OMP_NUM_THREADS': '1', **os.environ}
