#!/usr/bin/env bash
# usage: tests/slurm/start.sh FOLDER
# Starts a Slurm of one node on localhost, with everything that it writes under FOLDER, and prints
# the line to eval so that srun, sbatch and scancel talk to it. Needs Debian's slurm-wlm and munge.
# Two CPUs and 4 GB unless CPUS and MEMORY (MB) say otherwise. tests/slurm/stop.sh FOLDER ends it.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"/{munge,state,spool}
folder=$(cd "$1" && pwd)
chmod 700 "$folder/munge"

cores=$(getconf _NPROCESSORS_ONLN)  # nproc would listen to OMP_NUM_THREADS
total=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
cpus=${CPUS:-2} memory=${MEMORY:-4096}
sed -e "s|@FOLDER@|$folder|g" -e "s|@HOST@|$(hostname -s)|g" -e "s|@USER@|$(id -un)|g" \
    -e "s|@CPUS@|$((cpus < cores ? cpus : cores))|g" \
    -e "s|@MEMORY@|$((memory < total ? memory : total))|g" \
    -e "s|@CTLD_PORT@|${CTLD_PORT:-16817}|g" -e "s|@SLURMD_PORT@|${SLURMD_PORT:-16818}|g" \
    "$here/slurm.conf.in" >"$folder/slurm.conf"
export SLURM_CONF=$folder/slurm.conf

[ -s "$folder/munge/key" ] || head -c 1024 /dev/urandom >"$folder/munge/key"
chmod 400 "$folder/munge/key"
# --force: the folder may lie under one that others can write to
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" \
    --seed-file="$folder/munge/seed" >&2
slurmctld >&2
slurmd >&2

for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.5
done
echo "$0: the node is not idle after 30 s:" >&2
tail -n 5 "$folder/slurmctld.log" "$folder/slurmd.log" >&2
exit 1
