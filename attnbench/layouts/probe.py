"""Layouts of one stage for probes: a token per cell of the picture, so that attention alone carries anything.

Nothing merges, overlaps or pools. Options keep the keys that a query sees in a block about alike. On 8 × 8
tokens: sequential_axial 8, criss_cross 15, windows 16, deformable 16 points, bra 16, spatial reduction 16,
cross_shaped 16 (8 in each half of the channels), quadtree 24 (16 coarse, 8 finer), sliding_window and
neighborhood 25, dilated 25 and 16; full 64, which is its definition. ``probe_12`` has 12 × 12 tokens: in
the same order 12, 23, 16, 16, 18, 16, 24, 25, 25, 25 and 144.
"""

from dataclasses import replace

from attnbench.layouts import Layout, register_layout

_OPTIONS = {
    "block_grid": {"window_size": 4},
    "bra": {"num_regions": 4, "topk": 4},
    "cross_shaped": {"split_size": 1, "last_stage": False},
    "deformable": {"alternate": False, "stride": 2, "kernel_size": 5},
    "dilated": {"kernel_size": 5, "odd_dilation": 2},
    "neighborhood": {"kernel_size": 5},
    "quadtree": {"levels": 2, "topk": 2},
    "shifted_window": {"window_size": 4},
    "sliding_window": {"kernel_size": 5},
    "spatial_reduction": {"sr_ratio": 2},
    "spatially_separable": {"window_size": 4, "sr_ratio": 2},
}

PROBE = register_layout(
    Layout(
        name="probe",
        title="Probe layout",
        embed_dim=32,
        depths=(2,),
        head_dim=16,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        patch_size=4,
        img_size=32,
        num_classes=8,
        in_chans=3,
        defaults=_OPTIONS,
    )
)

PROBE_DEEP = register_layout(
    replace(PROBE, name="probe_deep", title="Probe layout, four blocks", depths=(4,))
)

PROBE_12 = register_layout(
    replace(
        PROBE,
        name="probe_12",
        title="Probe layout, 12 × 12 cells",
        img_size=48,
        defaults=_OPTIONS
        | {
            "bra": {"num_regions": 4, "topk": 2},
            "deformable": {"alternate": False, "stride": 3, "kernel_size": 5},
            "quadtree": {"levels": 3, "topk": 2},
            "spatial_reduction": {"sr_ratio": 3},
            "spatially_separable": {"window_size": 4, "sr_ratio": 3},
        },
    )
)

PROBE_56 = register_layout(
    Layout(
        name="probe_56",
        title="Probe layout of Swin-T's first stage",  # its width, map and options: for a GPU
        embed_dim=96,
        depths=(2,),
        head_dim=32,
        mlp_ratio=4.0,
        drop_path_rate=0.0,
        patch_size=4,
        img_size=224,
        num_classes=8,
        in_chans=3,
        defaults={"deformable": {"alternate": False, "stride": 8, "kernel_size": 9}},
    )
)
