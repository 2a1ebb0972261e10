"""The ledger finds what was changed, nothing else, and its lines add up."""

import json

import pytest
import torch
from click.testing import CliRunner
from documents import cells

from attnbench.__main__ import cli
from attnbench.errors import AttnbenchError
from attnbench.harness.ledger import lines, recipe_lines
from attnbench.harness.ledger.differences import compare
from attnbench.harness.models.backbone import Backbone, create_model

IMAGE = (1, 1, 28, 28)


def _pico(mechanism: str = "shifted_window", **options: object) -> Backbone:
    with torch.device("meta"):
        return create_model("swin_pico", mechanism, impl="eager", **options)


def test_a_model_does_not_differ_from_itself() -> None:
    assert compare(_pico(), _pico(), torch.zeros(IMAGE, device="meta")) == []


def test_a_setting_of_one_layer_is_found() -> None:
    changed = _pico()
    changed.layers[2].blocks[1].norm2.eps = 1e-3
    (found,) = compare(_pico(), changed, torch.zeros(IMAGE, device="meta"))
    assert (found.place, found.aspect, found.b) == ("layers.2.blocks.1.norm2", "eps", "0.001")


def test_a_layer_more_is_found_with_its_cost() -> None:
    changed = _pico()
    changed.layers[0].blocks[0].attn.proj = torch.nn.Sequential(
        changed.layers[0].blocks[0].attn.proj, torch.nn.Linear(16, 16, bias=False, device="meta")
    )
    found = compare(_pico(), changed, torch.zeros(IMAGE, device="meta"))
    assert sum(item.parameters for item in found) == 16 * 16
    assert sum(item.macs for item in found) == 14 * 14 * 16 * 16


@pytest.mark.parametrize(
    ("a", "b"),
    [("biformer_stl", "swin_t"), ("swin_t/bra", "swin_t"), ("swin_t", "timm_swin"), ("biformer_s", "dat_t")],
)
def test_lines_add_up_to_the_whole_gap(a: str, b: str) -> None:
    rows, totals = lines.of(a, b, 224)
    for name, (one, other) in totals.items():
        assert sum(getattr(row, name) for row in rows) == other - one
    assert not any(row.part == "outside of all parts" for row in rows)


def test_biformer_stl_differs_from_swin_t_in_more_than_attention() -> None:
    rows, totals = lines.of("biformer_stl", "swin_t", 224)
    assert totals["parameters"] == (28_372_552, 28_288_354)
    seen = {row.part: row for row in rows if not row.is_attention}
    assert "BatchNorm" in seen["patch_embed.norm"].a  # stem
    assert "BatchNorm" in seen["downsample.norm"].a
    assert seen["downsample.conv / reduction"].b.startswith("Linear")  # convolutional merging
    assert "5, 5" in seen["attn.lepe"].a
    assert seen["attn.lepe"].b == ""
    assert seen["attn.bias_table"].a == ""  # no relative position bias
    assert "num_heads=8" in seen["attn.full"].a
    assert seen["attn.full"].where == "stage 4: 2 blocks"
    assert (seen["attn.full.qkv"].aspect, seen["attn.full.qkv"].a) == ("bias", "False")
    assert seen["norm1"].aspect == "eps"
    assert "BatchNorm" in seen["norm"].a


def test_command_prints_one_object() -> None:
    result = CliRunner().invoke(cli, ["ledger", "swin_t/bra", "swin_t", "--format", "json"])
    found = json.loads(result.output)
    gap = found["macs"][1] - found["macs"][0]
    assert gap == sum(row["macs"] for row in found["rows"]) != 0


def test_training_is_listed_beside_the_attention() -> None:
    """+1.4 over Swin-T comes with another warm-up, no clipping and repeated augmentation."""
    rows, names = recipe_lines.of("swin_t", "biformer_stl")
    found = {row.aspect: (row.a, row.b) for row in rows}
    assert names == ("swin_t", "biformer_stl")
    assert found["schedule.warmup_epochs"] == ("20", "5")
    assert found["optimizer.clip_grad"] == ("5", "0")
    assert found["augmentation.repeats"] == ("1", "3")
    assert found["drop_path"] == ("0.2", "0.1")
    assert "peak lr" not in found
    assert all((row.where, row.parameters, row.macs) == ("training", 0, 0) for row in rows)


def test_recipes_can_be_named_or_left_out() -> None:
    assert recipe_lines.of("swin_t/bra", "swin_t") == ([], None)
    assert recipe_lines.of("swin_t", "biformer_stl", "none") == ([], None)
    rows, _ = recipe_lines.of("swin_t/bra", "swin_t", "nat_t, cswin_t")
    assert ("peak lr", "0.001", "0.002") in {(row.aspect, row.a, row.b) for row in rows}
    with pytest.raises(AttnbenchError, match="--recipes takes two recipes"):
        recipe_lines.of("a", "b", "swin_t")
    with pytest.raises(AttnbenchError, match="unknown recipe 'swin'"):
        recipe_lines.of("a", "b", "swin,nat_t")


def test_the_command_has_both() -> None:
    out = CliRunner().invoke(cli, ["ledger", "swin_t", "biformer_stl"])
    assert out.exit_code == 0, out.output
    rows = [cells(line) for line in out.output.splitlines()]
    assert ["training", "recipe", "schedule.warmup_epochs", "20", "5"] in [row[:5] for row in rows]
    assert "**attention**" in out.output
