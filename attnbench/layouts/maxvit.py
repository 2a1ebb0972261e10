"""MaxViT's attention in BiFormer's form of Swin-T's layout, as BiFormer's Figure 1 has it.

Source: Zhu et al., 2023, "BiFormer", arXiv:2303.08810.
"""

import dataclasses

from attnbench.layouts import register_layout
from attnbench.layouts.biformer import BIFORMER_STL

MAXVIT_STL = register_layout(
    dataclasses.replace(BIFORMER_STL, name="maxvit_stl", title="MaxViT-STL layout", norm="layer", defaults={})
)
