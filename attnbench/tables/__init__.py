"""Tables from records and from published figures, one file each. Needs no torch."""

from attnbench.tables.ablation import ablation, published
from attnbench.tables.render import Table

__all__ = ["Table", "ablation", "published"]
