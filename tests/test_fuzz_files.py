"""Files with anything in them, and options that no mechanism can have: records, manifests, checkpoints.

The draws are seeded: a failure shows the arguments, which repeat it.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import RECORDS, Said, call, complain


def _damage(record: dict[str, Any], draw: random.Random) -> Any:
    """A record with one thing wrong."""
    hostile = draw.choice(
        [
            None,
            "",
            "=cmd|'/c calc'!A0",
            "<script>x</script>",
            "a|b\nc",
            -1,
            0,
            1e308,
            10**400,
            [],
            {},
            True,
            "nan",
        ]
    )
    place = draw.choice(["value", "name", "unit", "status", "created", "samples", "details", "cell", "all"])
    record = json.loads(json.dumps(record))
    if place == "all":
        return hostile
    if place == "cell":
        record["cell"][draw.choice(sorted(record["cell"]))] = hostile
    elif place == "details":
        details = record.setdefault("details", {})
        key = draw.choice(["ratio", "control", "verdict", "group", "batch_size", "ratio_low", "uncounted"])
        details[key] = hostile
    else:
        record[place] = hostile
    return record


@pytest.mark.parametrize("command", ["table ablation", "table table5", "table figure1", "compare"])
def test_records_with_anything_in_them(command: str, odd_folder: Path) -> None:
    draw = random.Random(command)
    good = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    path = odd_folder / "damaged.jsonl"
    found: list[tuple[Said, str]] = []
    for _ in range(40):
        lines = [_damage(record, draw) if draw.random() < 0.3 else record for record in good]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        form = draw.choice(["md", "csv", "json"] if command == "compare" else ["md", "csv", "latex", "html"])
        files = ["records.jsonl", str(path)] if command == "compare" else ["--records", str(path)]
        said = call(*command.split(), *files, "--format", form, cwd=odd_folder)
        found += [(said, why)] if (why := said.fault()) else []
        if form == "html" and "<script>" in said.out:
            found.append((said, "a tag from a record in HTML"))
        if form == "csv" and any(line.startswith(("=", '"=')) for line in said.out.splitlines()):
            found.append((said, "a formula from a record in a CSV"))
    complain(found)


def _manifests() -> Iterator[str]:
    entry = {"file": "x.safetensors", "mechanism": "full", "compute_dtype": "float64", "has_gradients": True}
    yield from ("", "[]", "{}", "null", "7", '"x"', '{"entries": null}', '{"entries": 3}', '{"entries": [3]}')
    yield from ('{"entries": [null]}', '{"entries": {"a": 1}}', '{"entries": ["x"]}', "[" * 100_000, "\0")
    for key in entry:
        yield json.dumps({"entries": [{k: v for k, v in entry.items() if k != key}]})
        for value in (None, 3, [], {}, "", "nope", "../../../etc/passwd"):
            yield json.dumps({"entries": [entry | {key: value}]})


def test_golden_manifests_with_anything_in_them(odd_folder: Path) -> None:
    found: list[tuple[Said, str]] = []
    golden = odd_folder / "golden"
    golden.mkdir(exist_ok=True)
    for text in _manifests():
        (golden / "MANIFEST.json").write_text(text)
        said = call("check", "--golden", "golden", "full", cwd=odd_folder)
        why = said.fault() or ("status 0 with nothing equal" if said.status == 0 else "")
        found += [(said, f"{why} for {text[:80]}")] if why else []
    complain(found)


def test_checkpoints_with_anything_in_them(odd_folder: Path) -> None:
    import torch

    found: list[tuple[Said, str]] = []
    contents: list[Any] = [{1: torch.ones(2)}, {}, [], None, 3, "x", {"model": {2: 3}}, {"model": None}]
    contents += [{("a",): torch.ones(1)}, {"a": 1}, torch.ones(3), {"model": {"a": torch.ones(1)}, 3: 4}]
    for number, content in enumerate(contents):
        path = odd_folder / f"{number}.pth"
        torch.save(content, path)
        said = call("load", "swin_pico_full", "--checkpoint", str(path), cwd=odd_folder)
        found += [(said, f"{why} for {content!r}")] if (why := said.accepted()) else []
    for name in ("bytes.pth", "file", "folder", "empty.jsonl"):
        said = call("load", "swin_pico_full", "--checkpoint", name, cwd=odd_folder)
        found += [(said, why)] if (why := said.accepted()) else []
    complain(found)


SETTINGS = {
    "bra": [
        "topk=1.5",
        "topk=true",
        "topk=[]",
        "topk=0",
        "topk=-1",
        "topk=99",
        'topk="1"',
        "topk={}",
        "nope=1",
    ],
    "full": ["self=1", "site=1", "impl=1", "rung=5", "rung=nope", "drop_path_rate=2.0", "num_classes=-1"],
    "shifted_window": [
        "window_size=0",
        "window_size=7.5",
        "qkv_bias=3",
        "img_size=0",
        "in_chans=0",
        "mlp_ratio=-1",
    ],
}


@pytest.mark.parametrize("command", ["memory", "explain", "run", "load"])
def test_an_option_of_a_mechanism_that_cannot_be(command: str, odd_folder: Path) -> None:
    found: list[tuple[Said, str]] = []
    for mechanism, settings in SETTINGS.items():
        for setting in settings:
            tail = ["--set", setting]
            lines = {
                "memory": ["memory", mechanism, "--layout", "swin_pico"],
                "explain": ["explain", mechanism, "--layout", "swin_pico"],
                "run": ["run", "--mechanisms", mechanism, "--metrics", "params", "--in-process"],
                "load": ["load", f"swin_pico_{mechanism}", "--checkpoint", "bytes.pth"],
            }
            said = call(*lines[command], *tail, cwd=odd_folder)
            found += [(said, why)] if (why := said.accepted()) else []
    complain(found)
