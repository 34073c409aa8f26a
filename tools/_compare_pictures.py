"""Sample pictures of a comparison: what each config's student predicts, drawn by tools/show.py."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import ROOT
from _compare_run import Run
from _provenance import environment


def draw_samples(runs: list[Run], baseline: str, count: int, out: Path) -> None:
    """Draw the first images of the split, one sheet per image and distillation.

    Of each config the first seed's run on the most data and the longest schedule is shown, at the
    config's own weights, beside the baseline's. What is drawn already is not drawn again, and a run
    whose checkpoint is not on this machine is left out with a line that says so.

    Args:
        runs: All runs.
        baseline: Stem of the config that the others are compared with.
        count: Images.
        out: Folder of the comparison; the sheets go to ``pictures``.
    """
    shown: dict[str, Run] = {}
    for run in runs:
        other = shown.get(run.config.stem)
        if other is None or (run.fraction, run.schedule) > (other.fraction, other.schedule):
            shown[run.config.stem] = run
    alone = shown.get(baseline)
    for stem, run in shown.items():
        if 'student' not in run.cfg.model and len(shown) > 1:
            continue  # it stands on the others' sheets
        files = [out / 'pictures' / f'{stem}_{index}.png' for index in range(count)]
        if not run.result.is_file():
            continue
        if files[-1].is_file() and files[-1].stat().st_mtime > run.result.stat().st_mtime:
            continue
        checkpoint, reference = run.checkpoint(), alone and alone.checkpoint()
        if checkpoint is None:
            print(f'No picture of {run.name}: its checkpoint is not in {run.run_dir}.')
            continue
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                str(ROOT / 'tools/show.py'),
                str(run.config),
                str(checkpoint),
            ]
            command += ['--split', run.split, '--out', folder, '--index', *map(str, range(count))]
            if reference is not None and alone is not run:
                command += ['--alone', str(reference)]
            if run.options:
                command += ['--cfg-options', *run.options]
            done = subprocess.run(command, capture_output=True, text=True, env=environment())
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ['it printed nothing'])[-1]
                print(f'No picture of {run.name}: {last}', flush=True)
                continue
            drawn = [line for line in done.stdout.splitlines() if line.startswith(folder)]
            files[0].parent.mkdir(exist_ok=True)
            for source, file in zip(drawn, files, strict=True):
                shutil.copy(source, file)
