"""Data sets are found like mechanisms, say what they are, and stand in records; old records still count."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from attnbench import AttnbenchError, UnknownNameError, datasets, plugins, registry, store
from attnbench.commands.list import command as list_command
from attnbench.record import FIRST_DATASET, Cell, Measurement

pytestmark = pytest.mark.usefixtures("isolated_registry")

MINE = """
from attnbench.datasets import register_dataset


@register_dataset("mine", title="Mine", num_classes=3, channels=1, version="{version}")
def load(size):
    '''{comment}'''
    return {value}
"""


def write(folder: Path, version: str = "1", comment: str = "Nothing.", value: str = "size") -> Path:
    path = folder / "mine.py"
    path.write_text(MINE.format(version=version, comment=comment, value=value))
    return path


def test_listing_imports_neither_torch_nor_data() -> None:
    code = (
        "import sys; from attnbench import datasets; datasets.names(); datasets.get('digits').digest();"
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_those_of_the_files_and_facts_those_of_the_decorator() -> None:
    folder = Path(__file__).parent.parent / "harness" / "data"
    assert set(datasets.names()) == {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")}
    assert not datasets.failures()
    for name in datasets.names():
        spec = datasets.get(name)
        spec.load()
        assert datasets.DATASETS.state.registered[name][1] == spec.facts
        assert spec.facts.source, name
        assert spec.facts.obtained, name
        assert spec.facts.licence, name


def test_plugin_file_registers_a_data_set_and_is_no_failed_mechanism(tmp_path: Path) -> None:
    registry.names()
    registry.add_plugin(write(tmp_path))
    assert datasets.get("mine").load()(5) == 5
    assert datasets.get("mine").facts.num_classes == 3
    assert not registry.failures()
    assert plugins.files() == [str(tmp_path / "mine.py")]


def test_plugin_file_added_before_anything_was_listed(tmp_path: Path) -> None:
    registry.add_plugin(write(tmp_path))
    assert "mine" in datasets.names("classification")
    assert "mine" not in datasets.names("probe")
    assert "mine" not in registry.names()


def test_one_file_registers_a_mechanism_and_a_data_set(tmp_path: Path) -> None:
    path = write(tmp_path)
    both = "from torch import nn\nfrom attnbench import register_mechanism\n" + path.read_text()
    path.write_text(both + '\n@register_mechanism("also_mine")\nclass Mechanism(nn.Module):\n    pass\n')
    registry.add_plugin(path)
    assert registry.get("also_mine").load().__module__ == datasets.get("mine").load().__module__


def test_digest_changes_with_version_and_code_and_not_with_words(tmp_path: Path) -> None:
    registry.add_plugin(write(tmp_path))
    first = datasets.get("mine").digest()
    write(tmp_path, comment="Something else.")
    assert datasets.get("mine").digest() == first
    write(tmp_path, value="size + 1")
    assert datasets.get("mine").digest() != first
    datasets.DATASETS.state.sources = None
    write(tmp_path, version="2")
    assert datasets.get("mine").digest() != first


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="data set 'digit'; did you mean digits"):
        datasets.get("digit")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"task": "guessing"}, "'guessing' is not one of"), ({"num_classes": 1}, "at least 2 classes")],
)
def test_wrong_facts_are_one_clear_error(arguments: dict, told: str) -> None:
    with pytest.raises(AttnbenchError, match=told):
        datasets.register_dataset("mine", **{"num_classes": 3, **arguments})


def test_a_layout_without_data_of_its_own_says_what_there_is() -> None:
    assert datasets.of_layout("swin_pico").name == "digits"
    with pytest.raises(AttnbenchError, match=r"'swin_t' has no one data set .*digits"):
        datasets.of_layout("swin_t")


def test_list_says_what_data_sets_there_are(tmp_path: Path) -> None:
    registry.add_plugin(write(tmp_path))
    text = CliRunner().invoke(list_command, ["--kind", "datasets"]).output
    assert "scikit-learn digits" in text
    assert datasets.get("mine").digest() in text
    rows = json.loads(CliRunner().invoke(list_command, ["--kind", "datasets", "--format", "json"]).output)
    assert {"mine", "digits"} <= {row["name"] for row in rows}
    wrong = CliRunner().invoke(list_command, ["--kind", "data"])
    assert wrong.exit_code == 2
    assert "unknown kind 'data'" in wrong.output


def accuracy_cell(**fields: str) -> Cell:
    return Cell(mechanism="full", layout="swin_pico", metric="accuracy", resolution=28, **fields)


def test_old_accuracy_records_were_digits_and_still_count(tmp_path: Path) -> None:
    old = Measurement.of(accuracy_cell(), "top1", 90.0, "%").model_dump()
    old["schema_version"] = 2
    for name in ("dataset", "dataset_digest"):
        del old["cell"][name]
    (tmp_path / "old.jsonl").write_text(json.dumps(old) + "\n")
    (found,) = store.read(tmp_path, pytest.fail)
    assert found.cell.dataset == FIRST_DATASET
    assert found.key in accuracy_cell(dataset=FIRST_DATASET, dataset_digest="any").stored_as()
    assert found.key not in accuracy_cell(dataset="other").stored_as()


def test_old_records_of_other_metrics_name_no_data_set_and_keep_their_key() -> None:
    seen = set()
    for line in (Path(__file__).parent / "records" / "schema_2.jsonl").read_text().splitlines():
        stored = json.loads(line)
        found = Measurement.model_validate(stored)
        assert found.cell.dataset == (FIRST_DATASET if found.cell.metric == "accuracy" else "")
        if stored["schema_version"] == 2:
            assert found.key in found.cell.stored_as()
        seen.add((stored["schema_version"], found.cell.metric))
    assert {(2, "accuracy"), (2, "macs")} <= seen
