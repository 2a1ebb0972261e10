"""MACs: formula and counter agree forward and backward; a count that is too low is never a number."""

import itertools
import re
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attnbench import AttnbenchError, Site, add_plugin, create_model, get, names, tables
from attnbench.harness.counting import census, costs, macs, operator_costs
from attnbench.harness.models.backbone import Backbone
from attnbench.record import Cell, Measurement
from attnbench.tables import render


def on_meta(mechanism: str, layout: str = "swin_t", impl: str = "eager", **options: object) -> Backbone:
    with torch.device("meta"):
        return create_model(layout, mechanism, impl=impl, **options)


def image(model: Backbone, size: tuple[int, int], batch: int = 1) -> Tensor:
    return torch.empty(batch, model.layout.in_chans, *size, device="meta")


PLACES = [
    ("swin_t", (224, 224)),
    ("swin_pico", (62, 97)),
    *(pytest.param("swin_t", size, marks=pytest.mark.slow) for size in ((256, 320), (197, 283))),
]


@pytest.mark.parametrize(("layout", "size"), PLACES, ids=str)
@pytest.mark.parametrize("name", names())
def test_formula_equals_counter(name: str, layout: str, size: tuple[int, int]) -> None:
    model = on_meta(name, layout)
    assert sum(model.macs(*size).values()) == macs.count(model.eval(), image(model, size))
    backward = macs.count_backward(model.train(), image(model, size))
    assert backward == macs.Count(sum(model.macs_backward(*size).values()))


class Framed(nn.Module):
    """A mechanism whose input needs a gradient, as inside a backbone."""

    def __init__(self, mechanism: str, site: Site, options: dict[str, object]) -> None:
        super().__init__()
        self.attention = get(mechanism).build(site, impl="eager", **options)
        self.scale = nn.Parameter(torch.ones(site.dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x * self.scale)


OPTIONS = {
    "fixed points, log-CPB": ("deformable", {"form": "pp", "position": "log_cpb", "no_off": True}),
    "moving points, log-CPB": ("deformable", {"form": "pp", "position": "log_cpb"}),
    "strided points, LePE": ("deformable", {"position": "dwc_pe", "stride": 2}),
    "CCNet": ("criss_cross", {"form": "ccnet"}),
    "type A": ("quadtree", {"form": "A", "levels": 3}),
    "routing attached": ("bra", {"topk": 3, "detach_routing": False}),
    "both axes": ("sequential_axial", {"form": "sequential"}),
    "linear": ("spatial_reduction", {"linear": True}),
    "rolled, then padded": ("shifted_window", {"padding": "official"}),
    "no position bias": ("long_short_distance", {"position_bias": False}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_formula_equals_counter_with_options(case: str) -> None:
    name, options = OPTIONS[case]
    if name == "deformable":
        options = {**options, "alternate": False}
    with torch.device("meta"):
        model, x = Framed(name, Site(32, 4, 14, 14, 2, 1), options), torch.empty(1, 13, 11, 32)
    forward = model.attention.macs(13, 11)
    assert macs.count(model, x) == sum(forward.values())
    backward = {phase: 2 * cost for phase, cost in forward.items() if phase != "routing"}
    if hasattr(model.attention, "macs_backward"):
        backward = model.attention.macs_backward(13, 11)
    assert macs.count_backward(model, x).macs == sum(backward.values())


@pytest.mark.parametrize("name", names())
def test_counter_is_that_of_torch(name: str) -> None:
    model = on_meta(name, "swin_pico").eval()
    x = image(model, (32, 32))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert 2 * macs.count(model, x) == counter.get_total_flops()


def test_cost_is_per_image_and_any_size_needs_no_memory() -> None:
    model = on_meta("full").eval()
    assert macs.count(model, image(model, (224, 224), 1000)) == 1000 * sum(model.macs(224, 224).values())
    large = on_meta("shifted_window").eval()
    assert macs.count(large, image(large, (8192, 8192))) == sum(large.macs(8192, 8192).values())


def test_known_products() -> None:
    with torch.device("meta"):
        layer, x = nn.Linear(7, 11), torch.empty(5, 7)
    assert macs.count(layer, x) == 5 * 7 * 11
    assert macs.count_backward(layer, x).macs == 5 * 7 * 11  # of the weight: the input needs none
    assert macs.count_backward(layer, x.requires_grad_()).macs == 2 * 5 * 7 * 11


CONVOLUTIONS = {
    "plain": (nn.Conv2d, {"padding": 1}),
    "depth-wise": (nn.Conv2d, {"groups": 8, "padding": 1}),
    "grouped, strided": (nn.Conv2d, {"groups": 2, "stride": 2}),
    "transposed": (nn.ConvTranspose2d, {"stride": 2}),
    "transposed, depth-wise": (nn.ConvTranspose2d, {"groups": 8, "stride": 2}),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_costs_twice_backward(kind: str) -> None:
    layer, options = CONVOLUTIONS[kind]
    with torch.device("meta"):
        module, x = layer(8, 8, 3, **options), torch.empty(2, 8, 9, 12, requires_grad=True)
    places = x if "transposed" in kind else module(x)
    forward = 2 * 9 * prod(places.shape[2:]) * 8 * 8 // options.get("groups", 1)
    assert macs.count(module, x) == forward
    assert macs.count_backward(module, x).macs == 2 * forward


@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_a_counter_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    right = macs._count

    def wrong(model: nn.Module, image: Tensor, backward: bool = False) -> macs.Count:
        return macs.Count(0) if backward == (broken == "backward") else right(model, image, backward)

    monkeypatch.setattr(macs, "_count", wrong)
    macs.self_test.cache_clear()
    with pytest.raises(AttnbenchError, match=f"counts 0 MACs {broken} where there are"):
        macs.self_test()
    macs.self_test.cache_clear()


# --- useful and dense ---

ATTENTION_ONLY = {"projection", "attention", "position"}
SMALL = [(14, 14), (15, 17), (9, 20), (3, 2)]


@pytest.mark.parametrize("name", names())
def test_useful_attention_is_the_declared_pattern(name: str) -> None:
    """Where tokens meet in one softmax only, it costs 2·C for each pair that the pattern has."""
    spec, compared = get(name), 0
    for stage, block, (height, width) in itertools.product(range(4), range(2), SMALL):
        module = spec.build(Site(32, 4, 14, 14, stage, block), impl="eager")
        formula = module.macs(height, width)
        useful = getattr(module, "macs_useful", module.macs)(height, width)
        assert useful.keys() == formula.keys()
        assert all(useful[phase] <= formula[phase] for phase in formula)
        if spec.facts.pattern == "static" and formula.keys() <= ATTENTION_ONLY and "attention" in formula:
            assert useful["attention"] == 2 * 32 * int(module.support(height, width).sum())
            compared += 1
    assert compared or name not in ("shifted_window", "sliding_window", "long_short_distance", "block_grid")


def test_useful_criss_cross_leaves_out_the_masked_product() -> None:
    ccnet = get("criss_cross").build(Site(32, 4, 14, 14), impl="eager", form="ccnet")
    assert ccnet.macs_useful(9, 10)["attention"] == 90 * (9 + 10 - 1) * (4 + 32)


def test_useful_stripes_and_interactive_windows_leave_padding_out() -> None:
    stripes = get("cross_shaped").build(Site(32, 4, 14, 14, 2), impl="eager", split_size=4, last_stage=False)
    columns, rows = (4**2 + 4**2 + 2**2) * 9**2, (4**2 + 4**2 + 1) * 10**2
    assert stripes.macs_useful(9, 10)["attention"] == 2 * 16 * (columns + rows)
    assert stripes.macs_useful(9, 10)["local"] == 9 * 90 * 32
    windows = get("interactive_window").build(Site(32, 4, 14, 14), impl="eager")
    assert windows.macs_useful(8, 7)["attention"] == 2 * 32 * (7**2 + 1) * 7**2


def test_dense_is_full_attention_in_the_same_frame() -> None:
    full, window = on_meta("full"), on_meta("shifted_window")
    assert full.macs_dense(224, 224) == full.macs(224, 224)
    assert window.macs_dense(224, 224) == full.macs(224, 224)
    pooling = on_meta("pooling")
    assert pooling.macs_dense(224, 224) == pooling.macs(224, 224)


# --- the census ---


@pytest.mark.parametrize(
    ("operator", "free"),
    {
        "aten::add": True,
        "aten::_softmax": True,
        "aten::grid_sampler_2d": True,
        "aten::upsample_bilinear2d": True,
        "aten::native_layer_norm": True,
        "aten::linalg_vector_norm": True,
        "aten::topk": True,
        "prims::convert_element_type": True,
        "aten::_int_mm": False,
        "aten::_cdist_forward": False,
        "aten::_fft_r2c": False,
        "aten::_flash_attention_forward_new": False,
        "aten::mkldnn_linear": False,
        "torchvision::deform_conv2d": False,
        "natten::na2d_forward": False,
        "mine::add": False,
    }.items(),
)
def test_free_by_convention(operator: str, free: bool) -> None:
    assert census.is_free(*operator.split("::")) is free


def test_products_unknown_to_torch_are_met() -> None:
    class Fourier(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft2(x).real @ torch.empty(5, 3, device="meta")

    model, x = Fourier(), torch.empty(2, 8, 8, device="meta")
    assert macs.count_forward(model, x) == macs.Count(2 * 8 * 5 * 3, ("aten::_fft_r2c",))
    with pytest.raises(macs.UncountedError, match=r"at least 240 MACs: .* aten::_fft_r2c"):
        macs.count(model, x)


def test_composite_operators_are_taken_apart() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():  # where matmul and attention reach the counter whole
                return F.scaled_dot_product_attention(x, x, x).matmul(x.transpose(-2, -1))

    x = torch.empty(1, 2, 6, 8, device="meta")
    assert macs.count(Attention(), x) == 3 * 2 * 6 * 6 * 8


class Product(HigherOrderOperator):
    """A higher-order operator, as flex attention is one, that multiplies two matrices."""

    def __init__(self) -> None:
        super().__init__("attnbench_test_product")

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return super().__call__(a, b)


def test_a_higher_order_operator_is_counted_with_a_formula_only(monkeypatch: pytest.MonkeyPatch) -> None:
    product = Product()
    product.py_impl(torch._C.DispatchKey.CompositeExplicitAutograd)(torch.matmul)

    @product.py_impl(torch._C.DispatchKey.Autograd)
    def below(a: Tensor, b: Tensor) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return product(a, b)

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return product(x, x)

    model, x = Model(), torch.empty(4, 4, device="meta")
    assert macs.count_forward(model, x) == macs.Count(0, ("higher_order::attnbench_test_product",))
    monkeypatch.setattr(macs, "formulas", lambda: {product: lambda a, b, out_shape: 2 * a[0] * prod(b)})
    assert macs.count_forward(model, x) == macs.Count(64)


LIAR = """
import torch
from torch import Tensor, nn
from attnbench import Site, register_mechanism


@torch.library.custom_op("attnbench_test::NAME", mutates_args=())
def twice(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


@register_mechanism("NAME", title="Hidden product", pattern="static", year=2026)
class Liar(nn.Module):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.dim = site.dim
        self.w = nn.Parameter(torch.ones(site.dim, site.dim))

    def forward(self, x: Tensor) -> Tensor:
        return twice(x, self.w) @ self.w
"""
WITH_RULES = """

twice.register_fake(lambda x, w: torch.empty_like(x))
twice.register_autograd(lambda context, grad: (grad, None))
"""
WITH_FORMULA = """
    def macs(self, height: int, width: int) -> dict[str, int]:
        return {"projection": TIMES * height * width * self.dim**2}
"""


def measured(folder: Path, name: str, text: str) -> dict[str, Measurement]:
    path = folder / f"{name}.py"
    path.write_text(text.replace("NAME", name))
    add_plugin(path)
    cell = Cell(mechanism=name, layout="swin_pico", metric="macs", resolution=32, device="meta")
    return {m.name: m for m in costs.measure(cell, lambda impl: create_model("swin_pico", name, impl=impl))}


@pytest.mark.usefixtures("isolated_registry")
@pytest.mark.parametrize("rules", [True, False], ids=["on meta", "on a CPU"])
def test_a_count_that_is_too_low_prints_as_a_bound(tmp_path: Path, rules: bool) -> None:
    name = f"hidden_{rules}".lower()
    found = measured(tmp_path, name, LIAR + WITH_FORMULA.replace("TIMES", "2") + WITH_RULES * rules)
    counted, formula = found["macs_counted"], found["macs"]
    assert counted.details == {"lower_bound": True, "uncounted": [f"attnbench_test::{name}"]}
    assert counted.value < formula.value
    assert formula.status == "ok"
    assert ("macs_backward" in found) is rules  # without a rule, there is no backward pass to count
    table = tables.ablation(list(found.values()))
    assert table.raw.loc[name, "macs_lower_bound"] == f"attnbench_test::{name}"
    for form, sign in {"md": "≥", "latex": r"$\geq$", "html": "≥"}.items():
        text = render.render(table, form)
        assert f"{sign} {counted.value / 1e9:.4f}" in text
        assert "backward" not in text  # enough is said; a CSV has it
        assert f"lower bound: no formula is known for attnbench_test::{name}" in text.replace("\\_", "_")


@pytest.mark.usefixtures("isolated_registry")
def test_a_bound_is_shown_without_a_formula_too(tmp_path: Path) -> None:
    found = measured(tmp_path, "hidden_plain", LIAR + WITH_RULES)
    assert set(found) == {"macs", "macs_counted", "macs_issued"}
    text = render.render(tables.ablation(list(found.values())), "md")
    assert re.search(rf"— \[1\] \| +≥ {found['macs_counted'].value / 1e9:.4f} \[2\]", text)


@pytest.mark.usefixtures("isolated_registry")
def test_a_formula_below_the_bound_is_refused(tmp_path: Path) -> None:
    found = measured(tmp_path, "hidden_low", LIAR + WITH_FORMULA.replace("TIMES", "0") + WITH_RULES)
    assert found["macs"].status == "failed"
    assert "torch's counter at least" in found["macs"].reason


def test_kinds_of_macs_of_an_implementation_that_issues_more() -> None:
    cell = Cell(
        mechanism="neighborhood", layout="swin_t", metric="macs", resolution=224, impl="tiled", device="meta"
    )
    found = {m.name: m for m in costs.measure(cell, lambda impl: on_meta("neighborhood", impl=impl))}
    assert {m.status for m in found.values()} == {"ok"}
    value = {name: m.value for name, m in found.items()}
    assert value["macs"] == value["macs_counted"] == value["macs_useful"]
    assert value["macs_useful"] < value["macs_issued"] < value["macs_dense"]
    assert value["macs_backward"] == 2 * value["macs"] - found["macs"].details["phases"]["patch_embed"]
    assert found["macs_issued"].implementation == "tiled"
    raw = tables.ablation(list(found.values())).raw
    assert raw.loc["neighborhood", list(value)].to_dict() == value
    shown = render.render(tables.ablation(list(found.values())), "md")
    assert "MACs (G)" in shown
    assert "issued" not in shown


# --- formulas of optional back ends, on shapes alone ---


def test_formulas_of_back_ends() -> None:
    q, k = (2, 5, 3, 8), (2, 7, 3, 8)  # B, L, heads, d
    v = (*k[:3], 4)
    pairs = 2 * 3 * 5 * 7
    forward, backward = 2 * pairs * (8 + 4), 2 * pairs * (3 * 8 + 2 * 4)
    assert operator_costs.dense_attention(q, k, v, False, 1.0) == forward
    assert operator_costs.dense_attention_backward(q, k, v, q, q, q) == backward
    assert operator_costs.efficient_attention(q, k, v, None, out_shape=None) == forward
    assert operator_costs.efficient_attention_backward(q, q, k, v, None, q) == backward
    assert operator_costs.flash_attention(q, k, v, None, None, None, 5, 7) == forward
    assert operator_costs.flash_attention_backward(True, q, q, k, v, q, q, None, None, 5, 7) == backward
    row_q, row_k, row_v = (10, 3, 8), (14, 3, 8), (14, 3, 4)  # two sequences in one row
    assert operator_costs.flash_attention(row_q, row_k, row_v, (3,), (3,), None, 5, 7) == forward
    assert (
        operator_costs.flash_attention_backward(1, row_q, row_q, row_k, row_v, 0, 0, (3,), (3,), 5, 7)
        == backward
    )
    flex = [(t[0], t[2], t[1], t[3]) for t in (q, k, v)]  # heads before tokens
    assert operator_costs.flex_attention(*flex, None, None) == forward
    assert operator_costs.flex_attention_backward(*flex, None, None) == backward
    x = (2, 9, 11, 3, 8)
    keys = 2 * 9 * 11 * 3 * 7 * 5
    assert operator_costs.neighborhood_attention(x, x, x, [7, 5], [1, 1], [1, 1]) == 2 * keys * 16
    assert (
        operator_costs.neighborhood_attention_backward(x, x, x, x, x, x, [7, 5], [1, 1]) == 2 * keys * 5 * 8
    )


def test_formulas_of_natten_equal_those_of_the_eager_implementation() -> None:
    model = get("neighborhood").build(Site(96, 3, 28, 28), impl="eager")
    x = (1, 28, 28, 3, 32)
    assert operator_costs.neighborhood_attention(x, x, x, [7, 7]) == 2 * model.macs(28, 28)["attention"]


def test_formulas_are_registered_for_what_is_loaded() -> None:
    @torch.library.custom_op("natten::na2d_forward", mutates_args=())
    def na2d_forward(query: Tensor, key: Tensor, value: Tensor, kernel_size: list[int]) -> Tensor:
        return query.clone()

    na2d_forward.register_fake(lambda q, k, v, kernel_size: torch.empty_like(q))

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return na2d_forward(x, x, x, [3, 3])

    x = torch.empty(1, 6, 5, 2, 8, device="meta")
    assert macs.count(Model(), x) == 2 * 6 * 5 * 9 * 16


def test_axes_of_the_efficient_kernel() -> None:
    class Model(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return torch.ops.aten._efficient_attention_forward(
                q, q, q, None, None, None, None, None, 0.0, 0, compute_log_sumexp=False
            )[0]

    assert macs.count(Model(), torch.empty(2, 16, 4, 8, device="meta")) == 2 * 2 * 16 * 16 * 4 * 8
