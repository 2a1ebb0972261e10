"""docs/torch.md says of every mechanism what works of torch's transforms; here it is tried."""

import re
from pathlib import Path

import pytest

from attnbench import registry
from attnbench.harness import torch_features

TABLE = (Path(__file__).parents[2] / "docs" / "torch.md").read_text().partition("<!-- end -->")[0]
ROWS = {
    row[0].strip("` "): row[1:]
    for row in re.findall(r"^\| (`\w+`) " + r"\| (\w+) " * 5 + r"\|$", TABLE, re.M)
}
TRIED = [feature for feature in torch_features.FEATURES if feature != "ONNX"]
SLOW = {("quadtree", "export, any H × W"), ("quadtree", "compile, any H × W")}
"""A minute each until torch gives up: left to ``python -m attnbench.harness.torch_features``."""


def test_the_table_has_every_mechanism_and_transform() -> None:
    assert sorted(ROWS) == registry.names()
    assert f"| mechanism | {' | '.join(TRIED)} |" in TABLE


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_it_works_where_the_table_says_so_and_nowhere_else(name: str) -> None:
    found = {
        feature: torch_features.why_not(name, feature) for feature in TRIED if (name, feature) not in SLOW
    }
    told = dict(zip(TRIED, ROWS[name], strict=True))
    assert {feature: "no" if why else "yes" for feature, why in found.items()} == {
        feature: told[feature] for feature in found
    }, found


def test_onnx_needs_onnxscript_and_is_tried_where_it_is() -> None:
    why = torch_features.why_not("identity", "ONNX")
    if "onnxscript" in why:
        pytest.skip(why)
    assert why == ""
