"""Make all that is shipped from the shipped records: tables, figures, the report, README's table and picture.

    python results/scripts/publish.py            write everything
    python results/scripts/publish.py --check    write nothing; status 1 if something is not up to date

Takes about half a minute, needs attnbench[report] and no network. The same records give the same bytes.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attnbench import store, tables
from attnbench.figures import save_figure
from attnbench.figures.gallery import gallery
from attnbench.record import Measurement
from attnbench.report.page import page
from attnbench.tables import probe_profile, probe_text, render
from attnbench.tables.dense_table import DENSE_TABLES, beside_dense
from attnbench.tables.narrow import as_text
from attnbench.tables.paper_table import rebuilt
from attnbench.tables.papers import PAPER_TABLES
from attnbench.tables.scenes_table import scenes_table

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "results" / "records"
FOLDERS = (ROOT / "results" / "tables", ROOT / "results" / "figures")
"""Nothing else lies in these: a file that no record asks for any more is removed."""
DENSE = ROOT / "results" / "dense" / "records"
LAYOUT = "swin_t"
"""Of the table in README and the report."""
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"
KINDS = ("svg", "pdf")


def main() -> int:
    """Write everything, or compare it with what is there; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if something is stale")
    only_check = parser.parse_args().check
    made = make(store.read(RECORDS, lambda line: print(f"warning: {line}", file=sys.stderr)))
    stale = [path for path, content in made.items() if not path.is_file() or path.read_bytes() != content]
    gone = [path for folder in FOLDERS for path in folder.glob("*") if path not in made]
    if not only_check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made[path])
        for path in gone:
            path.unlink()
    for path in (*stale, *gone):
        path = path.relative_to(ROOT)
        print(f"{'stale' if only_check else 'written'}: {path}")
    if not stale and not gone:
        print("everything is up to date")
    return int(only_check and bool(stale or gone))


def make(records: list[Measurement]) -> dict[Path, bytes]:
    """Every file that follows from the records, by path, with its content."""
    ablation = tables.ablation(records, layout=LAYOUT)
    made = {ROOT / "results" / "report.html": page(records, layout=LAYOUT).encode()}
    for name, table in {
        "ablation": ablation,
        **{n: rebuilt(spec, records) for n, spec in PAPER_TABLES.items()},
    }.items():
        made[ROOT / "results" / "tables" / f"{name}.txt"] = as_text(table).encode()
        made[ROOT / "results" / "tables" / f"{name}.md"] = render.render(table, "md").encode()
        made[ROOT / "results" / "tables" / f"{name}.csv"] = render.render(table, "csv").encode()
    made |= {ROOT / "results" / "tables" / f"{name}.md": text.encode() for name, text in _others(records)}
    made |= _figures(ablation, records)
    readme = ROOT / "README.md"
    made[readme] = with_table(readme.read_text(encoding="utf-8"), as_text(ablation)).encode()
    return made


def _others(records: list[Measurement]) -> Iterator[tuple[str, str]]:
    """Tables that need one form alone: probes, dense models, scenes."""
    yield "probes", probe_text.render(probe_profile.profiles(records), "md")
    dense = store.read(DENSE, lambda line: print(f"warning: {line}", file=sys.stderr))
    yield "scenes", render.render(scenes_table(dense), "md")
    for name, spec in DENSE_TABLES.items():
        yield name, render.render(beside_dense(spec, dense, None), "md")


def with_table(readme: str, text: str) -> str:
    """README with the table between its marks."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}```text\n{text}```\n{END}{after}"


def _figures(table: tables.Table, records: list[Measurement]) -> dict[Path, bytes]:
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in gallery(table, records).items():
            for kind in KINDS:
                path = Path(folder) / f"{name}.{kind}"
                save_figure(figure, path)
                made[ROOT / "results" / "figures" / path.name] = path.read_bytes()
    return made


if __name__ == "__main__":
    sys.exit(main())
