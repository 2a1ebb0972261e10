#!/usr/bin/env bash
# Measure all that the shipped tables, figures and report show, into results/records.
#
#   results/scripts/measure_all.sh [OPTIONS OF attnbench run, such as --budget 20]
#
# What has a record is not measured again, so it can be stopped and started at any time; --force measures all
# anew. About an hour on two cores; what matters most comes first. Tables, figures, the report and README's
# table and picture are made of it at the end, by publish.py, which can be run by itself.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
failed=0

measure() { # measure ARGUMENTS...: one run; a failure is told, and the rest goes on
    echo "== attnbench run $* (after $((SECONDS / 60)) min)"
    "$python" -m attnbench run --out results "$@" || failed=1
}

check() { # check ARGUMENTS...: a certificate
    echo "== attnbench check $* (after $((SECONDS / 60)) min)"
    "$python" -m attnbench check --out results "$@" || failed=1
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
# Speeds with other options than a mechanism's own are shown once they were checked with those.
while IFS= read -r arguments; do
    eval "check $arguments" < /dev/null
done < <("$python" - << 'PYTHON'
import json
import shlex

from attnbench import certificates, registry
from attnbench.tables.papers import PAPER_TABLES

lines = PAPER_TABLES["table7"].lines()
for name, options in [(line.model.mechanism, line.model.options) for line in lines if line.model]:
    if options and not certificates.is_valid(name, registry.get(name).digest(), None, options):
        print(shlex.join([name, *(f"--set={key}={json.dumps(value)}" for key, value in options.items())]))
PYTHON
)
measure --layout swin_t --metrics growth
measure --layout swin_t --metrics explain --modes infer --precision fp32 "$@"
[ $failed = 0 ] || echo "some runs failed: see above, and start this again"
"$python" results/scripts/publish.py || failed=1
exit $failed
