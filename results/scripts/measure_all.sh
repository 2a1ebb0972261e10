#!/usr/bin/env bash
# Measure all that the shipped tables, figures and report show, into results/records.
#
#   results/scripts/measure_all.sh [OPTIONS OF attnbench run, such as --budget 20]
#
# What has a record is not measured again, so it can be stopped and started at any time; --force measures all
# anew. About an hour on two cores; what matters most comes first. Then: python results/scripts/publish.py
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
failed=0

measure() { # measure ARGUMENTS...: one run; a failure is told, and the rest goes on
    echo "== attnbench run $* (after $((SECONDS / 60)) min)"
    "$python" -m attnbench run --out results "$@" || failed=1
}

measure --layout swin_t "$@"
# Every model of the papers' tables, in the order of the tables, those of one layout and setting together.
while IFS= read -r arguments; do
    eval "measure $arguments" '"$@"' < /dev/null
done < <("$python" - << 'PYTHON'
from attnbench.tables.paper_table import commands
from attnbench.tables.papers import PAPER_TABLES

seen = []
for name in ("figure1", "table5", "table6", "table1", "table7", "classification"):
    spec = PAPER_TABLES[name]
    ours = [line.name for line in spec.lines() if line.model and line.model.layout != "swin_t"]
    for command in commands(spec, ours, "params,macs,memory,throughput"):
        if command not in seen:
            seen.append(command)
            print(command.removeprefix("attnbench run "))
PYTHON
)
measure --layout swin_t --metrics growth
measure --layout swin_t --metrics explain --modes infer --precision fp32 "$@"
[ $failed = 0 ] || echo "some runs failed: see above, and start this again"
exit $failed
