"""The rules by which a mechanism's options follow the size of the map, as the mechanism declares them."""

from attnbench.registry import MechanismSpec, Site
from attnbench.scaling_rules import Rule


def rules(spec: MechanismSpec, site: Site) -> list[Rule]:
    """The rules of a mechanism; ``site`` is where its fixed options are looked up, to name them."""
    declared: tuple[Rule, ...] = getattr(spec.load(), "growth", ())
    if declared:
        return list(declared)
    fixed = ", ".join(f"{name} {value}" for name, value in spec.options(site).items())
    return [Rule("", f"{fixed} fixed" if fixed else "nothing to scale")]
