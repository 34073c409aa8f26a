#!/usr/bin/env bash
# usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG [CHECKPOINT] [arguments of tools/test.py]
# The checkpoint is left out with --teacher. Environment, as with mmdet's script:
#   GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5   GPUS_PER_NODE=0: GPUS tasks without a GPU
#   SRUN_ARGS= PY_ARGS=                      more arguments of srun and of tools/test.py
set -euo pipefail
[ $# -ge 4 ] || { echo "usage: $0 PARTITION JOB_NAME CONFIG [CHECKPOINT] [arguments]" >&2; exit 2; }
partition=$1 job_name=$2
shift 2

tasks=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
places=(--ntasks="$tasks")
if [ "$per_node" -gt 0 ]; then
    places+=(--gres=gpu:"$per_node" --ntasks-per-node="$per_node")
fi
# SRUN_ARGS and PY_ARGS are lists of words
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job_name" "${places[@]}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/test.py" "$@" --launcher slurm ${PY_ARGS:-}
