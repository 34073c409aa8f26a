"""Plot what one run logged, or several over each other.

The losses of student, terms and exits, shares of the gradient, weights, ratio of the distillation's
losses to the student's own, validation scores. A run that was resumed is one curve.

Examples:
    ``python tools/plot_log.py work_dirs/mine --out mine.png``
    ``python tools/plot_log.py work_dirs/alone work_dirs/mine --keys loss mIoU --smooth 0.9``
"""

import argparse
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import matplotlib
import pandas as pd
from _common import run_tool
from mmengine.config import Config

matplotlib.use('Agg')
import matplotlib.pyplot as plt

RATIO = 'rho: distillation / own losses'
_TIMES = {'time', 'data_time', 'step', 'iter', 'epoch', 'memory'}
# titles of plots that come after those of terms and exits
_LAST = ('share of the gradient', 'cosine with the rest', 'weight', RATIO, 'validation')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Plot logs')
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='folders of runs')
    parser.add_argument('--legend', nargs='+', metavar='NAME', help='names of the runs')
    parser.add_argument(
        '--keys', nargs='+', metavar='KEY', help="entries of the log to plot, e.g. loss 'kd.*'"
    )
    parser.add_argument('--out', default='log.png', help='picture to write')
    parser.add_argument('--log', action='store_true', help='logarithmic losses')
    parser.add_argument(
        '--smooth', type=float, default=0.0, help='0 to 1, what it is in TensorBoard'
    )
    parser.add_argument('--debug', action='store_true', help="traceback of a user's mistake")
    return parser.parse_args(argv)


@dataclass
class Log:
    """What a run has logged.

    Args:
        name: What the legend calls it.
        train: A column for each entry, a row for each step that was logged.
        val: The same of validations, at the step of training after which they were.
        parts: Names of its terms and exits.
    """

    name: str
    train: pd.DataFrame
    val: pd.DataFrame
    parts: list[str]

    def groups(self) -> dict[str, list[str]]:
        """Entries that belong together, by the title of their plot."""
        columns = list(self.train)
        losses = [key for key in columns if 'loss' in key and key != RATIO]
        taught = {part: [k for k in losses if k.startswith(f'{part}.')] for part in self.parts}
        own = [key for key in losses if not any(key in keys for keys in taught.values())]
        groups = {"the sum, and the student's own losses": own, **taught}
        weights = [k for k in (f'{part}.weight' for part in self.parts) if k in columns]
        shares, cosines = (
            [k for k in columns if k.endswith(x)] for x in ('.grad_share', '.grad_cosine')
        )
        ratio = [RATIO] if RATIO in columns else []
        groups.update(zip(_LAST, (shares, cosines, weights, ratio, list(self.val))))
        return {title: keys for title, keys in groups.items() if keys}

    def curve(self, key: str) -> pd.Series:
        """Values by step."""
        return (self.train if key in self.train else self.val)[key].dropna()


def read_log(work_dir: str, name: str | None = None) -> Log:
    """Read all starts of a run; where one resumed, it replaces what came after.

    Raises:
        ValueError: There is no log.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    files = [file for file in files if file.stat().st_size]
    if not files:
        raise ValueError(
            f'{work_dir}: no */vis_data/scalars.json here: name the --work-dir of a training'
        )
    train, val = pd.DataFrame(), pd.DataFrame()
    for file in files:
        rows = pd.read_json(file, lines=True)
        trains = rows['loss'].notna() if 'loss' in rows else pd.Series(False, index=rows.index)
        new, tested = (rows[chosen].dropna(axis=1, how='all') for chosen in (trains, ~trains))
        new = new.set_index('step', drop=False)
        tested = _at_steps(tested, new if len(new) else train)
        begin = min([*new.index[:1], *tested.index[:1]])
        train = pd.concat([train[train.index < begin], new])
        val = pd.concat([val[val.index < begin], tested])
    parts = _parts(files[-1].with_name('config.py'), train)
    own = [k for k in train if 'loss' in k and k != 'loss']
    taught = [k for k in own if any(k.startswith(f'{part}.') for part in parts)]
    own = [k for k in own if k not in taught]
    if taught and own:
        train[RATIO] = train[taught].sum(axis=1) / train[own].sum(axis=1)
    scores = [k for k in val if k not in _TIMES and not (val[k] == -1).all()]
    return Log(name or Path(work_dir).name, train, val[scores] if scores else val, parts)


def _at_steps(tested: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """Validations at steps of training; a loop by epochs logs the epoch as their step."""
    if not len(tested):
        return tested
    steps = tested['step']
    if 'epoch' in train:
        last = train.groupby('epoch')['step'].max()
        steps = [last[last.index <= epoch].max() for epoch in steps]
    return tested.set_index(pd.Index(steps, name='step'))


def _parts(config: Path, train: pd.DataFrame) -> list[str]:
    """Names of terms and exits: those of the config, where it lies beside the log."""
    model = Config.fromfile(config).get('model', {}) if config.is_file() else {}
    named = [name for group in ('terms', 'exits') for name in model.get(group) or ()]
    measured = [k.removesuffix('.grad_share') for k in train if k.endswith('.grad_share')]
    return list(dict.fromkeys([*(name for name in named if name != '_scope_'), *measured]))


def choose(logs: list[Log], patterns: list[str] | None) -> dict[str, list[str]]:
    """The entries to plot, by the title of their plot; of several runs, a plot for each entry.

    Raises:
        ValueError: A pattern fits nothing.
    """
    groups = {}
    for log in logs:
        for title, keys in log.groups().items():
            known = groups.setdefault(title, [])
            known += [key for key in keys if key not in known]
    groups.update({title: groups.pop(title) for title in _LAST if title in groups})
    keys = [key for group in groups.values() for key in group]
    for pattern in patterns or ():
        if not any(fnmatchcase(key, pattern) for key in keys):
            raise ValueError(f'--keys {pattern}: nothing in the log fits; it has {", ".join(keys)}')
    if patterns:
        fits = {key for key in keys for pattern in patterns if fnmatchcase(key, pattern)}
        groups = {title: [k for k in group if k in fits] for title, group in groups.items()}
    if len(logs) > 1:
        groups = {key: [key] for group in groups.values() for key in group}
    return {title: group for title, group in groups.items() if group}


def draw(
    logs: list[Log], groups: dict[str, list[str]], file: str, smooth: float, log: bool
) -> Path:
    """Draw a plot for each group of entries.

    Returns:
        Path: The picture.
    """
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 2.9 * rows + 0.4), squeeze=False,
        layout='constrained',
    )  # fmt: skip
    last = max(index.max() for x in logs for index in (x.train.index, x.val.index) if len(index))
    for axis, (title, keys) in zip(grid.flat, groups.items()):
        curves = [(x, key) for x in logs for key in keys if key in x.train or key in x.val]
        for run, key in curves:
            curve = run.curve(key)
            number = logs.index(run) if len(logs) > 1 else keys.index(key)
            style = dict(color=f'C{number % 10}', linestyle=('-', '--', ':')[number // 10 % 3])
            scored = key in run.val
            if scored:
                style.update(marker='o', markersize=3.5)
            elif smooth:
                axis.plot(curve.index, curve, color=style['color'], alpha=0.25, linewidth=0.8)
                curve = curve.ewm(alpha=1 - smooth).mean()
            label = run.name if len(logs) > 1 else key.removeprefix(f'{title}.')
            axis.plot(curve.index, curve, linewidth=1.4, label=label, **style)
        if log and any('loss' in key for key in keys):
            axis.set_yscale('log')
        axis.set_title(title, fontsize=10, weight='bold')
        axis.set_xlabel('step', fontsize=8)
        axis.tick_params(which='both', labelsize=8)
        axis.set_xlim(0, 1.02 * last)
        axis.grid(alpha=0.3)
        if len(logs) == 1 and (len(keys) > 1 or keys != [title]):
            place = dict(loc='upper center', bbox_to_anchor=(0.5, -0.16), ncols=2)
            axis.legend(fontsize=7.5, frameon=False, **place)
    for axis in grid.flat[len(groups) :]:
        axis.set_axis_off()
    if len(logs) > 1:
        lines = {}
        for axis in grid.flat:
            for line, name in zip(*axis.get_legend_handles_labels()):
                lines.setdefault(name, line)
        figure.legend(
            lines.values(), lines.keys(), loc='outside upper left', ncols=3, fontsize=9,
            frameon=False,
        )  # fmt: skip
    else:
        figure.suptitle(logs[0].name, fontsize=11, x=0.01, ha='left')
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file


def main(args: argparse.Namespace) -> Path:
    """Read the logs, draw them and print where the picture lies.

    Raises:
        ValueError: One line naming the argument and the fix.
    """
    if not 0 <= args.smooth < 1:
        raise ValueError(f'--smooth {args.smooth}: give a number from 0 to below 1, such as 0.9')
    if args.legend and len(args.legend) != len(args.work_dirs):
        raise ValueError(
            f'--legend: {len(args.legend)} names for {len(args.work_dirs)} runs: give one for each'
        )
    names = args.legend or _names([Path(folder).absolute() for folder in args.work_dirs])
    logs = [read_log(folder, name) for folder, name in zip(args.work_dirs, names)]
    file = draw(logs, choose(logs, args.keys), args.out, args.smooth, args.log)
    print(file)
    return file


def _names(folders: list[Path]) -> list[str]:
    """The parts of the paths in which they differ."""
    paths = [folder.parts for folder in folders]
    if len(paths) == 1:
        return ['/'.join(paths[0][-2:])]
    while len({path[-1] for path in paths}) == 1 and len(set(paths)) > 1:
        paths = [path[:-1] for path in paths]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ['/'.join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
