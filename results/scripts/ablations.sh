#!/usr/bin/env sh
# Tables and figures of the example grids: measures what results/ablations/records lacks (minutes on two cores
# for all of it), and draws them anew from those records.
set -eu
cd "$(dirname "$0")/../.."
for name in table7 heads_and_windows; do
    attnbench ablate "examples/ablations/$name.toml" --device cpu --out results/ablations \
        --output "results/ablations/$name.md" --plot "results/ablations/$name.svg"
done
