#!/usr/bin/env bash
# Transcribe the demo archive (`run` ends with the report), then check that every row is there. Arguments are overrides: demos/run.sh output=elsewhere
set -euo pipefail
cd "$(dirname "$0")/.."

code=0
quarry run --config configs/demo.yaml "$@" || code=$?
if [ "$code" -eq 1 ]; then
    echo
    echo "Exit code 1 means: finished, with failed rows. One file of this archive is broken on purpose, so this is the expected end."
elif [ "$code" -ne 0 ]; then
    exit "$code"
fi
echo
quarry verify --config configs/demo.yaml "$@"
