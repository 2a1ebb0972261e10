"""Profiles of probes as text: a table for each probe, and one that sums them up."""

import json
import math
from collections.abc import Sequence

from attnbench import datasets, letters, markdown, published, seeds
from attnbench.tables.probe_profile import HOPS, WORDS, Profile, Row, title, why

DASH = "—"


def render(profiles: Sequence[Profile], form: str = "md") -> str:
    """All of it.

    Args:
        profiles: as :func:`attnbench.tables.probe_profile.profiles` gives them.
        form: ``md``, ``csv`` or ``json``.
    """
    if form == "csv":
        return _csv(profiles)
    if form == "json":
        return json.dumps([_facts(profile, row) for profile, row in _rows(profiles)], indent=2) + "\n"
    parts = [_detail(profile) for profile in profiles]
    if len(profiles) > 1:
        parts.append(summary(profiles))
    return "\n".join(parts)


def summary(profiles: Sequence[Profile]) -> str:
    """Accuracy of every mechanism on every probe, with letters."""
    marks = {profile.probe: groups(profile) for profile in profiles}
    names = list(dict.fromkeys(name for profile in profiles for name in profile.rows))
    header = ["Attention", *(f"{profile.title} (%)" for profile in profiles)]
    rows = [["guessing", *(f"{profile.chance:.1f}" for profile in profiles)]]
    rows.append(["without attention", *(DASH if p.floor is None else f"{p.floor:.1f}" for p in profiles)])
    for name in names:
        cells = []
        for profile in profiles:
            row = profile.rows.get(name)
            shown = _percent(row.mean("accuracy")) if row else DASH
            cells.append(f"{shown} {marks[profile.probe].get(name, '')}".rstrip())
        rows.append([title(name), *cells])
    told = told_apart(profiles)
    return (
        f"## All probes\n\n{markdown.table(header, rows)}\n\n"
        "Mean over seeds ± half of the 95 % interval over seeds. Rows of a column that share a letter "
        f"are not told apart. {told}".rstrip()
        + "\n"
    )


def told_apart(profiles: Sequence[Profile]) -> str:
    """How many pairs of mechanisms some probe tells apart."""
    if all(len(profile.accuracies()) < 2 for profile in profiles):
        return ""
    everyone = {name for profile in profiles for name in profile.accuracies()}
    found = set().union(*(seeds.apart(profile.accuracies()) for profile in profiles))
    pairs = len(everyone) * (len(everyone) - 1) // 2
    return f"Of {pairs} pairs {len(found)} are told apart by some probe."


def groups(profile: Profile) -> dict[str, str]:
    """Letters by row; none for a row of too few seeds, of which nothing can be told."""
    rows = {name: by_seed for name, by_seed in profile.accuracies().items() if len(by_seed) >= seeds.LEAST}
    if len(rows) < 2:
        return {}
    ordered = [name for name in profile.rows if name in rows]
    return letters.display(ordered, seeds.apart(rows))


def _detail(profile: Profile) -> str:
    marks, budget = groups(profile), profile.budget
    side = profile.resolution // 4
    header = ["Attention", "Seeds", "Right (%)", ""]
    header += [f"{WORDS[hop]} (share)" for hop in HOPS] if profile.has_hops else []
    header += [f"at {round(1.5 * side)}²", f"at {2 * side}²", "Rate", "Why"]
    rows = []
    for name, row in profile.rows.items():
        cells = [title(name), str(row.seeds), _percent(row.mean("accuracy")), marks.get(name, "")]
        cells += [_hop(row, hop) for hop in HOPS] if profile.has_hops else []
        cells += [_plain(row, "accuracy_1.5x"), _plain(row, "accuracy_2x"), _rate(row), why(row, profile)]
        rows.append(cells)
    lines = [
        f"## {profile.title}: {_question(profile)}",
        "",
        f"Guessing is right in {profile.chance:.1f} %, a model whose cells know nothing of each other in "
        f"{profile.without}. {side} × {side} cells, layout {profile.layout}, {budget['steps']} steps of "
        f"{budget['batch_size']} pictures; the better of {len(budget['rates'])} learning rates "
        f"({', '.join(f'{rate:g}' for rate in budget['rates'])}) on validation pictures of the first seed.",
        "",
        markdown.table(header, rows, left=(0, len(header) - 1)),
        "",
        _below(profile),
    ]
    return "\n".join(lines) + "\n"


def _question(profile: Profile) -> str:
    if profile.probe not in datasets.names():
        return "no longer known here"
    question: str = getattr(datasets.get(profile.probe).load(), "question", "")
    return question


def _below(profile: Profile) -> str:
    """What the numbers are, what they can tell, and what they have to do with ImageNet."""
    told = []
    if profile.has_hops:
        told.append(
            "One hop: the answer lies where an attention reads; composed: only where several blocks after "
            "each other do; out of reach: nowhere, so that anything above guessing is a leak. Shares are of "
            "the questions, of a dynamic mechanism as it chose in the test pictures."
        )
    counts = {row.seeds for row in profile.rows.values() if row.seeds}
    if max(counts, default=0) > 1:
        told.append("± is half of the 95 % interval over seeds; rows that share a letter are not told apart.")
    rows = {name: found for name, found in profile.accuracies().items() if len(found) >= seeds.LEAST}
    if len(rows) > 1:
        told[-1] += f" The typical pair is told apart from {seeds.detectable(rows):.1f} points on."
    if min(counts, default=0) < seeds.LEAST:
        told.append(f"Of rows of fewer than {seeds.LEAST} seeds nothing is said how they differ from others.")
    told.append(imagenet(profile))
    told.append(f"Measured {profile.conditions}.")
    return "\n\n".join(filter(None, told))


def imagenet(profile: Profile) -> str:
    """Kendall's tau against the published top-1 accuracies of BiFormer's Table 5; empty for too few rows."""
    figures = published.of_mechanisms("top1")
    top1 = {name: float(figure.value) for name, figure in figures.items() if figure.value}
    both = [name for name, row in profile.rows.items() if name in top1 and row.seeds]
    if len(both) < 4:
        return ""
    ours = [mean.value for name in both if (mean := profile.rows[name].mean("accuracy"))]
    if len(set(ours)) < 2:
        return "All mechanisms published for ImageNet stand alike here: there is no rank to compare."
    tau, low, high = seeds.kendall(ours, [top1[name] for name in both])
    return (
        f"Kendall's τ with the published ImageNet accuracy of {len(both)} mechanisms "
        f"(results/published.csv): {tau:+.2f}, 95 % interval {low:+.2f} to {high:+.2f} "
        "by resampling mechanisms."
    )


def _percent(mean: seeds.Mean | None) -> str:
    if mean is None:
        return DASH
    return f"{mean.value:.1f}" + (f" ± {mean.half_width:.1f}" if mean.half_width < math.inf else "")


def _plain(row: Row, name: str) -> str:
    mean = row.mean(name)
    return DASH if mean is None else f"{mean.value:.1f}"


def _hop(row: Row, hop: str) -> str:
    mean = row.mean(hop)
    return DASH if mean is None else f"{mean.value:.1f} ({row.share(hop):.0f} %)"


def _rate(row: Row) -> str:
    rates = sorted({details["rate"] for details in row.details.values()})
    return ", ".join(f"{rate:g}" for rate in rates) or DASH


def _rows(profiles: Sequence[Profile]) -> list[tuple[Profile, Row]]:
    return [(profile, row) for profile in profiles for row in profile.rows.values()]


def _facts(profile: Profile, row: Row) -> dict[str, object]:
    """A row as plain values."""
    found: dict[str, object] = {"probe": profile.probe, "layout": profile.layout, "mechanism": row.name}
    accuracy = row.mean("accuracy")
    found |= {"seeds": row.seeds, "chance": profile.chance, "floor": profile.floor}
    found["accuracy"] = accuracy.value if accuracy else None
    found["half_width"] = accuracy.half_width if accuracy and accuracy.half_width < math.inf else None
    found["letters"] = groups(profile).get(row.name, "")
    for hop in HOPS:
        mean = row.mean(hop)
        found[hop] = mean.value if mean else None
        found[f"share_{hop}"] = row.share(hop) if mean else None
    for name in ("accuracy_1.5x", "accuracy_2x", "train_loss"):
        mean = row.mean(name)
        found[name] = mean.value if mean else None
    return found | {"rate": _rate(row), "why": why(row, profile)}


def _csv(profiles: Sequence[Profile]) -> str:
    import csv
    import io

    rows = [_facts(profile, row) for profile, row in _rows(profiles)]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["probe"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
