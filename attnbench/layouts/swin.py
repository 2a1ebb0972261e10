"""Swin-T's layout, and a small one of the same form that trains in minutes.

Source: Liu et al., 2021, "Swin Transformer", arXiv:2103.14030.
"""

from attnbench.layouts import Layout, register_layout

SWIN_T = register_layout(
    Layout(
        name="swin_t",
        title="Swin-T layout",
        embed_dim=96,
        depths=(2, 2, 6, 2),
        head_dim=32,
        mlp_ratio=4.0,
        drop_path_rate=0.2,
        patch_size=4,
        img_size=224,
        num_classes=1000,
        in_chans=3,
    )
)

SWIN_PICO = register_layout(
    Layout(
        name="swin_pico",
        title="Swin-pico layout",
        embed_dim=16,
        depths=(2, 2, 2, 2),  # two blocks a stage, so that mechanisms that alternate do
        head_dim=8,
        mlp_ratio=4.0,
        drop_path_rate=0.0,
        patch_size=2,
        img_size=28,
        num_classes=10,
        in_chans=1,
    )
)
