#!/usr/bin/env bash
# Run a plan of measurements on a machine with a GPU, without a network and without an installation of this project:
#   tools/gpu_plan.sh check       # at most 5 minutes each
#   tools/gpu_plan.sh train [--recipe CONFIG --data FILE.tar]
#   tools/gpu_plan.sh check --dry-run
# WHEELS: folder of wheels to install first (default: wheels); without wheels, nothing is installed.
# OUT: folder of the results (default: work_dirs/gpu_plan). PYTHON: interpreter with torch (default: python3).
set -euo pipefail
[ $# -gt 0 ] || { sed -n 's/^# \{0,1\}//p' "$0" | tail -n +2; exit 2; }
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
wheels=${WHEELS:-wheels}
site=work_dirs/gpu_plan_site
if compgen -G "$wheels/*.whl" > /dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$PWD/$site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
else
  export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$python" tools/analysis_tools/gpu_plan.py "$@" --out "${OUT:-work_dirs/gpu_plan}"
