"""docs/slurm.md: its batch job is submitted as it stands there, with fewer steps."""

import subprocess
import sys

from test_docs import ROOT, blocks
from test_slurm import cluster, last_checkpoint, pytestmark, slurm, wait_for  # noqa: F401

STEPS = 'train_cfg.max_iters=400 train_cfg.val_interval=400'
SCRIPTS = [block for block in blocks('docs/slurm.md', 'bash') if block.startswith('#!')]


def test_the_job_of_the_page_runs_to_its_end(cluster, tmp_path):  # noqa: F811
    (script,) = [block for block in SCRIPTS if STEPS in block]
    for name in ('configs', 'tools', 'mmkd'):
        (tmp_path / name).symlink_to(ROOT / name)
    converter = 'tools/dataset_converters/digit_scenes.py'
    scenes = [sys.executable, converter, 'data/digits', '--train', '8', '--val', '2']
    subprocess.run(scenes, cwd=tmp_path, check=True)
    # a minute is its limit on the page, to be requeued; here it is to end by itself
    script = script.replace(STEPS, STEPS.replace('400', '2')).replace('--time=1 ', '--time=9 ')
    (tmp_path / 'job.sh').write_text(script)
    job = slurm(cluster, 'sbatch', '--parsable', f'--chdir={tmp_path}', str(tmp_path / 'job.sh'))
    log = tmp_path / 'kd.log'
    wait_for(lambda: not slurm(cluster, 'squeue', '--noheader', f'--jobs={job.strip()}'), 'the job')
    assert 'Distillation' in log.read_text() and 'Iter(val)' in log.read_text(), log.read_text()
    assert last_checkpoint(tmp_path / 'work_dirs/kd') == 2  # with the random states of both tasks


def test_the_other_job_is_a_script_with_files_that_exist():
    (script,) = [block for block in SCRIPTS if STEPS not in block]
    checked = subprocess.run(['bash', '-n'], input=script, text=True, capture_output=True)
    assert checked.returncode == 0 and not checked.stderr
    assert '#SBATCH --requeue' in script and 'REQUEUE=1 tools/slurm_train.sh' in script
