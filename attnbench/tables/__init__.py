"""Tables from records and from published figures, one file each. Needs no torch."""

from attnbench.render import Table
from attnbench.tables.ablation import ablation, published

__all__ = ["Table", "ablation", "published"]
