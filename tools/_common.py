"""What tools/train.py and tools/test.py share: the command line, the runner on a CPU, errors."""

import argparse
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).resolve().parents[1]
# A clone works without being installed; an installed mmkd comes first.
sys.path.append(str(ROOT))

import mmkd  # noqa: E402, F401  the import makes `mmseg::...` and `mmkd::...` known to config files
from mmkd.distillers.model_source import find_config  # noqa: E402
from mmkd.registry import FAMILIES, MODELS  # noqa: E402


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing have in common."""
    parser.add_argument('--work-dir', help='folder for logs and results')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config, e.g. model.terms.kd.weight=2 or key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    parser.add_argument(
        '--debug',
        action='store_true',
        help="show the traceback of a user's mistake (or MMKD_DEBUG=1)",
    )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, apply ``--cfg-options``, and settle the work dir.

    Raises:
        ValueError: The config file does not exist.
    """
    file = find_config(args.config) if '::' in args.config else Path(args.config)
    if not file.is_file():
        raise ValueError(f'no config file {args.config!r}: give the path of an existing .py file')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(file)
    cfg.launcher = args.launcher
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def _slurm_environment() -> dict[str, str]:
    env = os.environ
    hosts = ['scontrol', 'show', 'hostnames', env['SLURM_NODELIST']]
    address = env.get('MASTER_ADDR')
    if address is None:
        address = subprocess.run(hosts, capture_output=True, text=True, check=True).stdout.split()[
            0
        ]
    return dict(
        RANK=env['SLURM_PROCID'],
        WORLD_SIZE=env['SLURM_NTASKS'],
        LOCAL_RANK=env.get('SLURM_LOCALID', '0'),
        MASTER_ADDR=address,
        # two jobs on one node must not meet
        MASTER_PORT=env.get('MASTER_PORT', str(20000 + int(env['SLURM_JOB_ID']) % 10000)),
    )


def _mpi_environment() -> dict[str, str]:
    env = os.environ
    world_size = env['OMPI_COMM_WORLD_SIZE']
    if env['OMPI_COMM_WORLD_LOCAL_SIZE'] == world_size:
        env.setdefault('MASTER_ADDR', '127.0.0.1')  # a single machine
    return dict(
        RANK=env['OMPI_COMM_WORLD_RANK'],
        WORLD_SIZE=world_size,
        LOCAL_RANK=env['OMPI_COMM_WORLD_LOCAL_RANK'],
        MASTER_ADDR=env['MASTER_ADDR'],
    )


def init_cpu_group(launcher: str) -> None:
    """Join a gloo group; mmengine's own launcher calls ``torch.cuda.set_device`` first.

    Raises:
        ValueError: The launcher's environment variables are missing.
    """
    read = dict(slurm=_slurm_environment, mpi=_mpi_environment).get(launcher)
    try:
        if read is not None:
            os.environ.update(read())
        rank, world_size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    except KeyError as error:
        raise ValueError(
            f'--launcher {launcher} needs the environment variable {error.args[0]}: '
            'start by torchrun, srun or mpirun, or use --launcher none'
        ) from error
    os.environ.setdefault('MASTER_PORT', '29500')
    dist.init_process_group('gloo', rank=rank, world_size=world_size)


class _DistributedOnCPU:
    """Runner mixin: wraps the model without ``device_ids``, which only GPUs have."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: torch.nn.Module) -> torch.nn.Module:
        names = [name for name, m in model.named_modules() if isinstance(m, torch.nn.SyncBatchNorm)]
        if names:
            model = revert_sync_batchnorm(model)
            self.logger.info(f'No GPU: {len(names)} SyncBN layers were reverted to BN.')
        cfg = dict(
            model_wrapper_cfg
            or dict(
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            )
        )
        wrapper = cfg.setdefault('type', 'MMDistributedDataParallel')
        wrapper = MODEL_WRAPPERS.get(wrapper) if isinstance(wrapper, str) else wrapper
        if issubclass(wrapper, DistributedDataParallel):
            cfg['device_ids'] = None
        return super().wrap_model(cfg, model)


def build_runner(cfg: Config) -> Runner:
    """Build the config's runner; without a GPU, one that trains in a gloo group."""
    kind = RUNNERS.get(cfg.runner_type) if 'runner_type' in cfg else Runner
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        init_cpu_group(cfg.launcher)
        cfg.pop('sync_bn', None)
        kind = type(kind.__name__, (_DistributedOnCPU, kind), {})
    return kind.from_cfg(cfg)


def _own_mistake(error: BaseException | None) -> ValueError | None:
    """Find a ValueError of mmkd, a plugin or a tool, also under a wrapper of mmengine's."""
    homes = {Path(__file__).resolve().parent, *_homes()}
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ValueError) and frames:
            origin = Path(frames[-1].filename).resolve()
            if homes & {origin, *origin.parents}:
                return error
        error = error.__cause__ or error.__context__
    return None


def _homes() -> set[Path]:
    """Where the packages lie that registered something here: a folder, or a single file."""
    kinds = [*MODELS.module_dict.values(), *FAMILIES.module_dict.values()]
    packages = [sys.modules[kind.__module__.partition('.')[0]] for kind in kinds]
    files = {Path(p.__file__).resolve() for p in packages if getattr(p, '__file__', None)}
    return {file.parent if file.name == '__init__.py' else file for file in files}


def run_tool(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> int:
    """Run a tool; a mistake of the user's ends as one line on stderr and exit code 1."""
    try:
        main(args)
    except Exception as error:
        mistake = _own_mistake(error)
        if mistake is None or args.debug or os.environ.get('MMKD_DEBUG'):
            raise
        message = ' '.join(str(mistake).split())
        sys.stdout.flush()
        print(f'mmkd: error: {message}', file=sys.stderr, flush=True)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
            # gloo's threads still let go of the last step's Python objects: once the interpreter
            # shuts down, that aborts the process, and its exit code is lost
            time.sleep(0.5)
    return 0
