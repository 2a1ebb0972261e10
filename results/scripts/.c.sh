#!/usr/bin/env bash
# The GPU campaign: equality first, then every measurement, in under ten minutes on one H200.
#
#   results/scripts/gpu_campaign.sh OUT [DEVICE [list]]
#
# 1. Golden tensors, and the tests that need a GPU.
# 2. Equality of every implementation with eager, in float32 and bfloat16: a certificate per mechanism.
# 3. Figure 1: throughput and memory, FP32 and AMP, inference and training, batch 128: BRA-STL, QuadTree-STL,
#    every mechanism in Swin-T's layout, timm's Swin-T with explicit attention (the baseline) and with SDPA.
# 4. Resolutions 224 to 1024.
# 5. BRA's attention alone against the roofline; its memory on a map of 600 x 500 tokens.
# 6. Tables.
#
# Writes OUT/attnbench-results (records, blocks, certificates), OUT/tables, OUT/*.csv and OUT/*.log; commit
# records, certificates and tables to results/. A step that fails or runs out of time is named, and the rest
# goes on; the exit status is then 1. The limits below add up to 593 s.
# Runs from a checkout without installing. Carry to a machine without a network the wheels of torch, triton,
# timm, torchvision, pydantic, click, rich, Jinja2, pandas, scipy, psutil, platformdirs, scikit-learn, pytest
# and pytest-benchmark.
# With DEVICE "cpu" it is a rehearsal in the small layout, with small maps, two mechanisms and ten times the limits.
# With "list" it prints its commands, one a line with its limit and name before it, and runs none.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:?usage: results/scripts/gpu_campaign.sh OUT [DEVICE [list]]}
device=${2:-cuda}
list=${3:-}
[[ $device =~ ^(cpu|cuda)$ && $list =~ ^(list)?$ ]] || {
    echo "DEVICE is cpu or cuda, and after it comes list or nothing; got '$device' '$list'" >&2
    exit 2
}
if [ -z "$list" ]; then
    mkdir -p "$out/tables"
    cd "$out" || exit 2
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python3}
attnbench="$python -m attnbench"
failed=0
slack=1 # times as long as a limit says

step() { # step LIMIT NAME COMMAND...: run it, its output in NAME.log; say how it ended and how long it took
    local limit=$(($1 * slack)) name=$2 began=$SECONDS status
    shift 2
    if [ -n "$list" ]; then
        printf '%s %s' "$limit" "$name"
        printf ' %q' "$@"
        echo
        return
    fi
    timeout "$limit" "$@" > "$name.log" 2>&1
    status=$?
    [ $status = 0 ] || failed=1
    echo "$name: status $status, $((SECONDS - began)) of $limit s: $(tail -n 1 "$name.log")"
}

if [ "$device" = cpu ]; then
    slack=10 # two busy cores
    mechanisms=bra,shifted_window
    stl=(--layout swin_pico --batch-size 1 --mechanisms bra,quadtree,timm_swin,timm_swin_sdpa --budget 2)
    swin=(--layout swin_pico --batch-size 1 --mechanisms "$mechanisms,timm_swin" --budget 2)
    sweep=(--layout swin_pico --batch-size 1 --mechanisms bra,shifted_window --budget 1)
    resolutions="28 56"
    large=(--size 60 50 --topk 4 16)
    roofline=(env TRITON_INTERPRET=1 "$python" -m attnbench.results.scripts.bra_op_roofline --rehearse)
    every=($(tr , ' ' <<< "$mechanisms"))
else
    stl=(--layout biformer_stl --batch-size 128 --mechanisms bra,quadtree,timm_swin,timm_swin_sdpa --budget 6)
    swin=(--layout swin_t --batch-size 128 --budget 10)
    sweep=(--layout swin_t --batch-size 8 --precision amp --mechanisms bra,shifted_window,full --budget 2)
    resolutions="224 384 512 768 1024"
    large=()
    roofline=("$python" -m attnbench.results.scripts.bra_op_roofline)
    every=($($python -c "import attnbench; print(*attnbench.names())"))
fi
measure=(--device "$device" --metrics params,macs,memory,throughput)

step 30 goldens $attnbench check --golden "$root/tests/golden"
step 100 gpu-tests "$python" -m pytest -q -m gpu -p no:cacheprovider "$root/tests"
# Eight at a time: nothing is timed yet. xargs gives 123 where a check failed.
step 100 equality bash -c "printf '%s\n' ${every[*]} | xargs -P 8 -I{} $attnbench check {}"
step 50 figure1-stl $attnbench run "${measure[@]}" "${stl[@]}"
step 130 figure1-swin $attnbench run "${measure[@]}" "${swin[@]}"
for resolution in $resolutions; do
    step 18 "resolution-$resolution" $attnbench run --device "$device" --metrics memory,throughput \
        --resolution "$resolution" "${sweep[@]}"
done
step 60 op-roofline "${roofline[@]}" --out op-roofline.csv
step 20 large-map "$python" -m attnbench.results.scripts.bra_memory --device "$device" "${large[@]}" --out large-map.csv
step 5 table-figure1 $attnbench table figure1 --device "$device" --output "tables/figure1-$device.md"
layouts="swin_t biformer_stl"
[ "$device" = cpu ] && layouts=swin_pico
for layout in $layouts; do
    size=(--resolution 224)
    [ "$device" = cpu ] && size=()
    step 4 "table-$layout" $attnbench table ablation --layout "$layout" --device "$device" \
        "${size[@]}" --output "tables/$layout-$device.md"
    [ -n "$list" ] || cat "tables/$layout-$device.md"
done
exit $failed
