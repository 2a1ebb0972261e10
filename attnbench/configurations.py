"""Models of the papers by name: a layout, a mechanism and its options. Data only.

What is not listed among the options is the layout's default for the mechanism, or the mechanism's own.
Names on the left of ``PUBLISHED`` are the keys of rows in results/published.csv.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from attnbench import layouts, registry
from attnbench.errors import UnknownNameError


class Configuration(NamedTuple):
    """A model: arguments of :func:`attnbench.create_model`."""

    layout: str
    mechanism: str
    options: Mapping[str, Any] = {}


# Table 6 of BiFormer, from its baseline to BiFormer-S with token labelling, in the order of the path.
TABLE_6 = {
    "biformer_stl": Configuration("biformer_stl", "bra"),
    "biformer_stl_overlapped": Configuration("biformer_stl_overlapped", "bra"),
    "biformer_deeper": Configuration("biformer_deeper", "bra"),
    "biformer_s": Configuration("biformer_small", "bra"),
    "biformer_s_token_labels": Configuration("biformer_small_token_labels", "bra"),
}

# Table 7: S regions a side and k of them attended to, by stage. Here stage 4 is routed attention too, as the
# table's k says. Its first row was trained as ``biformer_stl``, which has full attention there.
TABLE_7 = {
    "stl_s7_k1_4_16_49": Configuration("biformer_stl", "bra", {"topk": (1, 4, 16, 49)}),
    "stl_s7_k1_2_8_32": Configuration("biformer_stl", "bra", {"topk": (1, 2, 8, 32)}),
    "stl_s7_k2_8_32_49": Configuration("biformer_stl", "bra", {"topk": (2, 8, 32, 49)}),
    "stl_s8_4_2_1_k2_2_2_1": Configuration(
        "biformer_stl", "bra", {"num_regions": (8, 4, 2, 1), "topk": (2, 2, 2, 1)}
    ),
}

CONFIGURATIONS: dict[str, Configuration] = {
    "swin_t": Configuration("swin_t", "shifted_window"),
    "dat_t": Configuration("swin_t", "deformable"),
    "maxvit_stl": Configuration("maxvit_stl", "block_grid"),
    "quadtree_stl": Configuration("biformer_stl", "quadtree"),
    **TABLE_6,
    "biformer_t": Configuration("biformer_tiny", "bra"),
    "biformer_b": Configuration("biformer_base", "bra"),
    "biformer_b_token_labels": Configuration("biformer_base_token_labels", "bra"),
    # The authors' later code, "refactored": another padding, and in stage 4 LePE of the values.
    "biformer_stl_nchw": Configuration("biformer_stl", "bra", {"padding": "nchw", "full_lepe_input": "v"}),
    **TABLE_7,
    # Table 5: attention alone is exchanged, in the layout of Swin-T. Its authors say little of options; these
    # are the mechanisms' own.
    "sliding_window": Configuration("swin_t", "sliding_window"),
    "spatially_separable": Configuration("swin_t", "spatially_separable"),
    "sequential_axial": Configuration("swin_t", "sequential_axial"),
    "criss_cross": Configuration("swin_t", "criss_cross"),
    "cross_shaped": Configuration("swin_t", "cross_shaped"),
    "swin_t_bra": Configuration("swin_t", "bra"),
}

PUBLISHED: dict[str, str] = {
    "t1_biformer_t": "biformer_t",
    "t1_biformer_s": "biformer_s",
    "t1_biformer_b": "biformer_b",
    "t5_sliding_window": "sliding_window",
    "t5_shifted_window": "swin_t",
    "t5_spatially_separable": "spatially_separable",
    "t5_sequential_axial": "sequential_axial",
    "t5_criss_cross": "criss_cross",
    "t5_cross_shaped_window": "cross_shaped",
    "t5_deformable": "dat_t",
    "t5_bra": "biformer_stl",
    "t6_0": "biformer_stl",
    "t6_1": "biformer_stl_overlapped",
    "t6_2": "biformer_deeper",
    "t6_3": "biformer_s",
    "t6_4": "biformer_s_token_labels",
    "t7_r1": "stl_s7_k1_4_16_49",
    "t7_r2": "stl_s7_k1_2_8_32",
    "t7_r3": "stl_s7_k2_8_32_49",
    "t7_r4": "stl_s8_4_2_1_k2_2_2_1",
    "readme_biformer_stl": "biformer_stl",
    "readme_biformer_stl_nchw": "biformer_stl_nchw",
    "cls_swin_t": "swin_t",
    "cls_dat_t": "dat_t",
    "cls_biformer_t": "biformer_t",
    "cls_biformer_s": "biformer_s",
    "cls_biformer_s_tl": "biformer_s_token_labels",
    "cls_biformer_b": "biformer_b",
    "cls_biformer_b_tl": "biformer_b_token_labels",
}


def find(name: str) -> Configuration:
    """The configuration called ``name``, or for ``<layout>_<mechanism>`` that mechanism in that layout.

    Raises:
        UnknownNameError: neither is known.
    """
    if name in CONFIGURATIONS:
        return CONFIGURATIONS[name]
    known = registry.names()
    for layout in layouts.names():
        mechanism = name.removeprefix(f"{layout}_")
        if name.startswith(f"{layout}_") and mechanism in known:
            return Configuration(layout, mechanism)
    raise UnknownNameError("model", name, [*CONFIGURATIONS, *(f"{layout}_bra" for layout in layouts.names())])
