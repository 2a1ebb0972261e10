#!/usr/bin/env bash
# The four heads with three mechanisms on the generated scenes: dense_scenes.sh [SEEDS] [OUT] [HEADS].
# One thread a run, one to three minutes each on an idle core; a run that ended is not repeated. Detectors begin
# with the backbone that Semantic FPN of the same mechanism and seed has trained, so that comes first. Then:
#   cat OUT/*/records/train.jsonl > OUT/records/scenes.jsonl; attnbench table scenes --records OUT/records
set -euo pipefail
seeds=${1:-"0 1 2"} out=${2:-attnbench-results/scenes} heads=${3:-"sem_fpn upernet retinanet mask_rcnn"}
export OMP_NUM_THREADS=1
for seed in $seeds; do
  for head in $heads; do
    for mechanism in bra shifted_window identity; do
      case $head in
        sem_fpn | upernet) task=(semantic) ;;
        *) task=(detection --weights "$out/sem_fpn-$mechanism-$seed/best.safetensors") ;;
      esac
      attnbench train --task "${task[@]}" --layout swin_pico --mechanism "$mechanism" --data scenes \
        --recipe "scenes_$head" --seed "$seed" --workers 0 --out "$out/$head-$mechanism-$seed"
    done
  done
done
mkdir -p "$out/records"
cat "$out"/*-*/records/train.jsonl > "$out/records/scenes.jsonl"
attnbench table scenes --records "$out/records"
