"""Phases: which part of the work an operator belongs to, told by the module and function that called it.

Inside an attention module a phase is the submodule (``qkv``, ``lepe``) or, outside of submodules, the
function or method that called the operator (``route``, ``gathered_attention``): whatever names the author
of the file chose. The rest of the layout has phases of its own. Nothing has to be declared by a mechanism.
"""

from typing import Any, NamedTuple

from torch import nn

from attnbench.harness.origin import Origin


class Place(NamedTuple):
    """Where an operator belongs.

    ``block``: path of the block in the model, empty outside of blocks; ``part``: ``attention``, ``block``
    (the block's rest) or ``model`` (outside of blocks); ``learned``: in a submodule of the attention that
    holds a ``weight`` of its own, as a linear layer does.
    """

    block: str
    part: str
    phase: str
    learned: bool = False


class Places:
    """Turns origins into places.

    Args:
        model: has ``attentions()``; the parent of each is its block.
    """

    def __init__(self, model: Any) -> None:
        paths = {id(module): path for path, module in model.named_modules()}
        self.attentions = [paths[id(attention)] for attention in model.attentions()]
        self.blocks = [path.rpartition(".")[0] for path in self.attentions]
        # What a layer of torch's or like torch's calls ``weight``; a module that holds a table of position
        # biases only may be an attention itself.
        self._learned = {
            path
            for path, module in model.named_modules()
            if "weight" in dict(module.named_parameters(recurse=False))
        }

    def of(self, origin: Origin) -> Place:
        """The place of an operator."""
        if origin.direction == "optimizer":
            return Place("", "model", "optimizer")
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            if (inside := _inside(origin.module, attention)) is not None:
                phase = ".".join(filter(None, (inside, origin.function)))
                learned = bool(inside) and origin.module in self._learned
                return Place(block, "attention", phase or "forward", learned)
            if (inside := _inside(origin.module, block)) is not None:
                return _of_block(block, inside, origin.function)
        return Place("", "model", _of_model(origin.module))

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """The blocks, in order."""
        return [model.get_submodule(path) for path in self.blocks]


def _of_block(block: str, inside: str, function: str) -> Place:
    if not inside and function:  # a block that does part of the attention itself, as timm's does
        return Place(block, "attention", function)
    first = inside.partition(".")[0]
    if first.startswith("norm"):
        return Place(block, "block", "norms")
    if not first or first.startswith("drop_path"):
        return Place(block, "block", "residual")
    return Place(block, "block", first)


def _of_model(module: str) -> str:
    first = module.partition(".")[0]
    if "downsample" in module.split("."):
        return "merging"
    return {"": "loss and input", "norm": "head"}.get(first, first)


def _inside(module: str, outer: str) -> str | None:
    """The path of a module relative to another that holds it, or ``None``."""
    if module == outer:
        return ""
    return module[len(outer) + 1 :] if module.startswith(f"{outer}.") else None
