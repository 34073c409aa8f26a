#!/usr/bin/env bash
# Makes the environment that `make` works in, once. VENV= and PYTHON= choose where and from what.
# Where pip fetches from is pip's own business: its configuration and environment variables apply.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
STAMP=$VENV/mmkd-stamp
WANTED=$(cat setup.py constraints.txt mmkd/version.py tools/setup_env.sh | cksum)
JOBS=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
START=$SECONDS

if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$WANTED" ] && [ -x "$VENV/bin/python" ]; then
  exit 0
fi

fail() {
  echo "setup: $*" >&2
  exit 1
}

# A step is quiet while it goes well, says every half minute that it lives, and shows its log otherwise.
step() {
  local title=$1 log=$VENV/mmkd-setup.log begin=$SECONDS
  shift
  echo "setup: $title"
  "$@" >"$log" 2>&1 &
  local job=$! next=30
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.2
    if [ $((SECONDS - begin)) -ge "$next" ]; then
      echo "setup:   ... $next s"
      next=$((next + 30))
    fi
  done
  if ! wait "$job"; then
    tail -n 30 "$log" >&2
    fail "failed at '$title'; the whole log is in $log"
  fi
}

supported() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

make_venv() {
  local python=${PYTHON:-}
  if [ -z "$python" ]; then
    for candidate in python3 python3.12 python3.11 python3.10; do
      if supported "$candidate"; then
        python=$candidate
        break
      fi
    done
    [ -n "$python" ] || fail 'no Python 3.10 to 3.12 found; name one by PYTHON=/path/to/python'
  elif ! supported "$python"; then
    fail "PYTHON=$python is not a Python 3.10 to 3.12; name another"
  fi
  echo "setup: making $VENV with $("$python" --version 2>&1)"
  "$python" -m venv "$VENV" || fail "'$python -m venv' does not work; install Python's venv module"
}

pip_install() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check -c constraints.txt "$@"
}

build_mmcv() {
  # Python's own -g would double the size and the time of every file.
  CFLAGS=-g0 MAX_JOBS=$JOBS pip_install --no-build-isolation onedl-mmcv
}

echo "setup: preparing $VENV; about 6 minutes on 2 cores the first time, of which mmcv takes 5"
[ -x "$VENV/bin/python" ] || make_venv
rm -f "$STAMP"

command -v "${CXX:-c++}" >/dev/null || fail 'no C++ compiler found; install one (g++ or clang++)'
"$VENV/bin/python" -c '
import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())
' || fail "Python.h is missing; install the development files of $("$VENV/bin/python" --version)"

step '1/5 torch (half a minute, longer on a slow line)' pip_install torch
step '2/5 build tools' pip_install numpy setuptools wheel ninja packaging
step "3/5 mmcv with its compiled operators ($JOBS jobs; minutes, or seconds from pip's cache)" build_mmcv
step '4/5 mmengine, mmdetection, mmsegmentation, mmkd (half a minute)' \
  pip_install --no-build-isolation -e '.[all,dev,docs]'
# It replaces the files of opencv-python, which wants libGL.so.1, and a bare server has none; so it
# has to come last.
step '5/5 OpenCV without a display' pip_install --force-reinstall --no-deps opencv-python-headless

"$VENV/bin/python" -c 'import mmcv._ext' 2>"$VENV/mmkd-setup.log" || {
  tail -n 3 "$VENV/mmkd-setup.log" >&2
  fail "mmcv was installed without its compiled operators (no NMS); delete $VENV, run
       '${PYTHON:-python3} -m pip cache remove onedl_mmcv', and try again"
}
rm -f "$VENV/mmkd-setup.log"
echo "$WANTED" >"$STAMP"
echo "setup: done in $((SECONDS - START)) s"
