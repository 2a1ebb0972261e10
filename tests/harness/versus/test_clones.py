"""Official code from clones: found where it lies, alone with its own names, and absent with a reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from attnbench import AttnbenchError, ImplementationError, Site
from attnbench.harness.versus import official
from attnbench.harness.versus.calls import attention_of
from attnbench.harness.versus.clones import load
from attnbench.harness.versus.pair import copy_weights, sites


def _clone(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_two_clones_each_find_their_own_modules(tmp_path: Path) -> None:
    for owner in "ab":
        _clone(
            tmp_path / owner,
            {"models/net.py": "from ops.part import value\n", "ops/part.py": f"value = {owner!r}\n"},
        )
    before = list(sys.path)
    assert [load(tmp_path, f"x/{owner}", "models/net.py").value for owner in "ab"] == ["a", "b"]
    assert sys.path == before
    assert not {"ops", "models"} & sys.modules.keys()


def test_a_loaded_module_of_the_same_name_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type(sys)("ops")
    monkeypatch.setitem(sys.modules, "ops", mine)
    _clone(tmp_path / "c", {"net.py": "import ops.part\n", "ops/part.py": ""})
    load(tmp_path, "x/c", "net.py")
    assert sys.modules["ops"] is mine


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no clone: git clone https://github.com/x/d "),
        ({"other.py": ""}, "has no net.py; is it a clone of x/d?"),
        ({"net.py": "import nowhere_to_be_had\n"}, "pip install nowhere_to_be_had"),
        ({"net.py": "import pywt_not.part\n"}, "No module named 'pywt_not'"),
        ({"net.py": "import timm.no_such_part\n"}, "No module named 'timm.no_such_part' (net.py:1)"),
        ({"net.py": "raise SystemExit(3)\n"}, "does not load here: its code called exit(3)"),
        (
            {"net.py": "from torch import no_such_name\n"},
            "cannot import name 'no_such_name'",
        ),
        ({"net.py": "def\n"}, "invalid syntax"),
    ],
    ids=["no clone", "another", "a package", "a part", "a part of one here", "exit", "a name", "syntax"],
)
def test_what_does_not_load_says_why(files: dict[str, str], said: str, tmp_path: Path) -> None:
    _clone(tmp_path / "d", files)
    with pytest.raises(ImplementationError) as told:
        load(tmp_path, "x/d", "net.py")
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_may_look_itself_up(tmp_path: Path) -> None:
    """As decorators do: timm's registry of models, and dataclasses of postponed annotations."""
    text = """
from __future__ import annotations
from dataclasses import dataclass
from timm.models.registry import register_model

@dataclass
class Options:
    width: int = 3

@register_model
def a_model_of_the_tests(pretrained=False, **kwargs):
    return Options().width
"""
    _clone(tmp_path / "e", {"net.py": text})
    assert load(tmp_path, "x/e", "net.py").a_model_of_the_tests() == 3


def test_a_parameter_that_one_module_lacks_is_named() -> None:
    with pytest.raises(AttnbenchError, match="parameters of one module alone: bias"):
        copy_weights(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), lambda name: name)


CRISS_CROSS = """
import torch
from torch import nn

class CrissCrossAttention(nn.Module):
    def __init__(self, in_dim):
        super().__init__()
        self.query_conv, self.key_conv = nn.Conv2d(in_dim, in_dim // 8, 1), nn.Conv2d(in_dim, in_dim // 8, 1)
        self.value_conv, self.gamma = nn.Conv2d(in_dim, in_dim, 1), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        q, k, v = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        column = torch.einsum("bcyx,bczx->byxz", q, k) + self.INF(x.shape[0], x.shape[2], x.shape[3])[0]\
            .reshape(1, x.shape[2], 1, x.shape[2])
        row = torch.einsum("bcyx,bcyz->byxz", q, k)
        weights = torch.cat([column, row], 3).softmax(3).split([x.shape[2], x.shape[3]], 3)
        out = torch.einsum("byxz,bczx->bcyx", weights[0], v) + torch.einsum("byxz,bcyz->bcyx", weights[1], v)
        return self.gamma * out + x
"""


def test_a_module_with_channels_first_and_its_pair(tmp_path: Path) -> None:
    """Of a stand-in for the repository: names, shapes and layouts are what this tests."""
    _clone(tmp_path / "CCNet", {"cc_attention/functions.py": CRISS_CROSS})
    pair = official.ccnet(tmp_path, Site(32, 1, 5, 6))
    x = torch.randn(2, 5, 6, 32)
    with torch.no_grad():
        theirs = pair.from_official(pair.run_official(pair.to_official(x)))
        torch.testing.assert_close(pair.own(x), theirs, rtol=1e-4, atol=1e-5)


def test_the_attention_of_a_block_ends_before_its_residual() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.attention, self.drop_path = nn.LayerNorm(4), nn.Linear(4, 4), nn.Identity()
            self.norm2, self.mlp = nn.LayerNorm(4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.drop_path(self.attention(self.norm1(x)))
            return x + self.drop_path(self.mlp(self.norm2(x)))

    block, x = Block(), torch.randn(2, 3, 5, 4, requires_grad=True)
    y = attention_of(block)(x)
    torch.testing.assert_close(y, block.attention(x))
    y.sum().backward()
    assert x.grad is not None
    assert {name for name, _ in block.named_parameters()} == {"attention.weight", "attention.bias"}


def _versus(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attnbench", "versus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_names_what_is_absent_and_fails_if_that_is_all(tmp_path: Path) -> None:
    done = _versus("--official", str(tmp_path), "--mechanisms", "cross_shaped,criss_cross")
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("git clone https://github.com/microsoft/CSWin-Transformer") == 1
    assert f"git clone https://github.com/speedinghzl/CCNet {tmp_path}/CCNet" in done.stdout


def test_a_mechanism_without_a_reference_is_told_so() -> None:
    done = _versus("--mechanisms", "bra")
    assert done.returncode != 0
    assert "no official code of bra" in done.stderr
    assert "--official" in done.stderr
    assert "Traceback" not in done.stderr


CLONES = os.environ.get("ATTNBENCH_OFFICIAL", "")


@pytest.mark.skipif(
    not CLONES, reason="ATTNBENCH_OFFICIAL names no folder of clones of the official repositories"
)
@pytest.mark.filterwarnings("ignore")  # of functions that official code calls as it was then
@pytest.mark.parametrize("title", official.cloned(Path(CLONES)) if CLONES else ["any"])
def test_official_code_equals_ours(title: str) -> None:
    reference = official.cloned(Path(CLONES))[title]
    for site in sites(reference.stages):
        try:
            pair = reference.build(site)
        except ImplementationError as error:
            pytest.skip(str(error))
        pair.official.eval(), pair.own.eval()
        x = torch.randn(2, site.height, site.width, site.dim)
        with torch.no_grad():
            theirs, own = pair.from_official(pair.run_official(pair.to_official(x))), pair.own(x)
        assert float((own - theirs).abs().max() / theirs.abs().max()) < 1e-4
