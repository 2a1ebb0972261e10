"""BiFormer's layouts: its variant in the form of Swin-T (STL), and its three sizes.

Source: Zhu et al., 2023, "BiFormer", arXiv:2303.08810, Tables 1 and 6, and the authors' code
(rayleizhu/BiFormer), which is not Swin-T's layout where it says so.
"""

import dataclasses

from attnbench.layouts import register_layout
from attnbench.layouts.swin import SWIN_T

# Drop path is that of the authors' scripts/train.sh: 0.1 for STL and its kin, 0.15 for BiFormer-S. Those of
# BiFormer-T and -B are the paper's.

# What BRA is in BiFormer's code: its last stage keeps the defaults of the full attention used there, and
# maps that the regions do not divide are padded before the projection.
_BRA = {"full_num_heads": 8, "full_qkv_bias": False, "full_lepe_input": "x", "padding": "legacy"}

BIFORMER_STL = register_layout(
    dataclasses.replace(
        SWIN_T,
        name="biformer_stl",
        title="BiFormer-STL layout",
        merging="conv",
        norm="batch",
        norm_eps=1e-6,
        drop_path_rate=0.1,
        defaults={"bra": _BRA},
    )
)

BIFORMER_STL_OVERLAPPED = register_layout(
    dataclasses.replace(
        BIFORMER_STL,
        name="biformer_stl_overlapped",
        title="BiFormer-STL layout, overlapped patch embedding",
        stem="overlapped",
        merging="overlapped",
    )
)

BIFORMER_DEEPER = register_layout(
    dataclasses.replace(
        BIFORMER_STL_OVERLAPPED,
        name="biformer_deeper",
        title="BiFormer-S layout without position encoding",
        embed_dim=64,
        depths=(4, 4, 18, 4),
        mlp_ratio=3.0,
        drop_path_rate=0.15,
    )
)

BIFORMER_SMALL = register_layout(
    dataclasses.replace(BIFORMER_DEEPER, name="biformer_small", title="BiFormer-S layout", position_kernel=3)
)

BIFORMER_TINY = register_layout(
    dataclasses.replace(
        BIFORMER_SMALL,
        name="biformer_tiny",
        title="BiFormer-T layout",
        depths=(2, 2, 8, 2),
        drop_path_rate=0.1,
    )
)

BIFORMER_BASE = register_layout(
    dataclasses.replace(
        BIFORMER_SMALL, name="biformer_base", title="BiFormer-B layout", embed_dim=96, drop_path_rate=0.4
    )
)

BIFORMER_SMALL_TOKEN_LABELS = register_layout(
    dataclasses.replace(
        BIFORMER_SMALL,
        name="biformer_small_token_labels",
        title="BiFormer-S layout with token labelling",
        token_labels=True,
    )
)

BIFORMER_BASE_TOKEN_LABELS = register_layout(
    dataclasses.replace(
        BIFORMER_BASE,
        name="biformer_base_token_labels",
        title="BiFormer-B layout with token labelling",
        token_labels=True,
    )
)
