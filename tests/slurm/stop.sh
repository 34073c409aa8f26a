#!/usr/bin/env bash
# usage: tests/slurm/stop.sh FOLDER
# Cancels all jobs and ends the daemons that tests/slurm/start.sh FOLDER started.
set -uo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
export SLURM_CONF=$1/slurm.conf
scancel --user="$(id -un)" 2>/dev/null
for _ in $(seq 20); do
    [ -z "$(squeue --noheader 2>/dev/null)" ] && break
    sleep 0.5
done
for pid in slurmd.pid slurmctld.pid munge/pid; do
    [ -s "$1/$pid" ] && kill "$(cat "$1/$pid")"
done
exit 0
