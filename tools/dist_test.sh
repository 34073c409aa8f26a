#!/usr/bin/env bash
# usage: tools/dist_test.sh CONFIG [CHECKPOINT] PROCESSES [arguments of tools/test.py]
# The checkpoint is left out with --teacher. Several machines: NNODES, NODE_RANK, MASTER_ADDR, PORT.
set -euo pipefail
usage() { echo "usage: $0 CONFIG [CHECKPOINT] PROCESSES [arguments of tools/test.py]" >&2; exit 2; }
[ $# -ge 2 ] || usage
inputs=("$1")
shift
if ! [[ $1 =~ ^[0-9]+$ ]]; then
    inputs+=("$1")
    shift
fi
[[ ${1:-} =~ ^[0-9]+$ ]] || usage
processes=$1
shift

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$processes" \
    "$(dirname "$0")/test.py" "${inputs[@]}" --launcher pytorch "$@"
