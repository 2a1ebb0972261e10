#!/usr/bin/env bash
# The GPU campaign: equality first, then every measurement, in under ten minutes on one H200.
#
#   results/gpu_campaign.sh OUT [DEVICE]
#
# Writes OUT/records, OUT/blocks, OUT/tables and OUT/*.log; commit records and tables to results/.
# Needs torch, timm, pydantic, click, rich, scikit-learn, Jinja2, pandas, pytest and pytest-benchmark; runs
# from a checkout without installing (PYTHONPATH). With DEVICE "cpu" it is a rehearsal in the small layout.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: results/gpu_campaign.sh OUT [DEVICE]}
device=${2:-cuda}
mkdir -p "$out/tables"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python3}
layout=(--layout swin_t --batch-size 128)
[ "$device" = cpu ] && layout=(--layout swin_pico --batch-size 1)

timeout 60 $python -m attnbench check --golden tests/golden > "$out/goldens.log" 2>&1
echo "goldens: $(tail -n 1 "$out/goldens.log")"
timeout 120 $python -m pytest -q -m gpu -p no:cacheprovider > "$out/gpu-tests.log" 2>&1
echo "gpu tests: $(tail -n 1 "$out/gpu-tests.log")"
timeout 400 $python -m attnbench run --device "$device" "${layout[@]}" \
    --metrics params,macs,memory,throughput --out "$out" > "$out/run.log" 2>&1
echo "run: status $?"
$python -m attnbench table ablation --records "$out/records" --device "$device" --output "$out/tables/ablation-$device.md"
cat "$out/tables/ablation-$device.md"
