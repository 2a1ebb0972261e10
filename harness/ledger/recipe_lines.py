"""What two models' trainings differ in, as lines of the ledger: an accuracy is of the recipe too."""

from attnbench import recipes
from attnbench.errors import AttnbenchError
from attnbench.harness.ledger.lines import Row

WHERE = "training"


def of(a: str, b: str, chosen: str = "") -> tuple[list[Row], tuple[str, str] | None]:
    """Lines for the settings in which the recipes of two models differ.

    Args:
        a, b: models; the recipe of a model is the one of its name, where there is one.
        chosen: two recipes instead, separated by a comma; ``none`` for no lines.

    Returns:
        The lines, and the names of the recipes; ``None`` where a model has none of its own.

    Raises:
        AttnbenchError: there is no such recipe, or not two are given.
    """
    known = recipes.names()
    if chosen and chosen != "none":
        names = tuple(name.strip() for name in chosen.split(","))
        if len(names) != 2:
            raise AttnbenchError(f"--recipes takes two recipes, A,B, or none; got {chosen!r}")
        pair = (names[0], names[1])
    elif chosen or a not in known or b not in known:
        return [], None
    else:
        pair = (a, b)
    one, other = (recipes.get(name) for name in pair)
    return [
        Row(WHERE, "recipe", key, _told(x), _told(y), 0, 0) for key, x, y in recipes.differences(one, other)
    ], pair


def _told(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
