#!/usr/bin/env bash
# usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of tools/train.py]
# Environment, as with mmdet's script:
#   GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5   GPUS_PER_NODE=0: GPUS tasks without a GPU
#   SRUN_ARGS= PY_ARGS=                      more arguments of srun and of tools/train.py
#   REQUEUE=1  inside a batch job: resume, and requeue the job when a signal ended the run
# Exit code 85: a signal ended the run, which is saved (docs/slurm.md).
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments]" >&2; exit 2; }
partition=$1 job_name=$2 config=$3
shift 3
arguments=()
if [[ $# -gt 0 && $1 != -* ]]; then
    arguments+=(--work-dir "$1")
    shift
fi
if [ "${REQUEUE:-0}" = 1 ]; then
    if [ -z "${SLURM_JOB_ID:-}" ]; then
        echo "$0: REQUEUE=1 works inside a batch job: call this script from one (sbatch)" >&2
        exit 2
    fi
    arguments+=(--resume)
fi

tasks=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
places=(--ntasks="$tasks")
if [ "$per_node" -gt 0 ]; then
    places+=(--gres=gpu:"$per_node" --ntasks-per-node="$per_node")
fi
code=0
# SRUN_ARGS and PY_ARGS are lists of words
# shellcheck disable=SC2086
srun --partition="$partition" --job-name="$job_name" "${places[@]}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" "${arguments[@]}" \
    --launcher slurm "$@" ${PY_ARGS:-} || code=$?
if [[ $code = 85 && ${REQUEUE:-0} = 1 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
