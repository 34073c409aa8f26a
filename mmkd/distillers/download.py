"""Weight files from elsewhere: fetched once, kept, and checked against the hash in their names."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process

_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.[a-z]+$')


def fetch(url: str) -> tuple[Path, str]:
    """The kept file of a URL and its SHA-256, after a download where there is none.

    Raises:
        ValueError: it cannot be downloaded, or contradicts the hash in its name.
    """
    name = Path(urlparse(url).path)
    in_name = _HASH_IN_NAME.search(name.name)
    if not in_name:
        mark = hashlib.sha256(url.encode()).hexdigest()[:8]
        name = name.with_name(f'{name.stem}_{mark}{name.suffix}')
    path = Path(torch.hub.get_dir()) / 'checkpoints' / name.name
    if is_main_process() and not path.is_file():
        _download(url, path)
    barrier()
    if not path.is_file():  # another machine than the main process's
        _download(url, path)
    sha256 = file_sha256(path)
    if in_name and not sha256.startswith(in_name[1]):
        raise ValueError(
            f'{path} is damaged: its SHA-256 begins with {sha256[: len(in_name[1])]}, its name '
            f'says {in_name[1]}; delete it, so that it is downloaded again'
        )
    return path, sha256


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f'Downloading {path.name} from {url} to {path.parent}', flush=True)
    in_name = _HASH_IN_NAME.search(path.name)
    try:
        torch.hub.download_url_to_file(url, str(path), in_name and in_name[1], progress=True)
    except (RuntimeError, OSError) as error:  # another hash, or no answer
        raise ValueError(
            f'{url} cannot be downloaded ({reason(error)}): get the file elsewhere and give its '
            'path as the checkpoint'
        ) from error


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def reason(error: Exception) -> str:
    """One short line of an error that may have many."""
    text = str(error).rpartition('WeightsUnpickler error:')[2].strip()
    return text.splitlines()[0].strip()[:160] if text else type(error).__name__
