"""Checks: the module exists at every place of the layout, and takes any map."""

from attnbench.errors import ImplementationError
from attnbench.harness.conformance.subject import Failure, Size, Subject, check, gradients, show


@check()
def builds(subject: Subject) -> str:
    """The module is built at every place of the Swin-T layout and maps (B, H, W, C) to (B, H, W, C)."""
    return _sweep(subject)


@check()
def odd_sizes(subject: Subject) -> str:
    """Odd, prime and non-square maps work, and so do their gradients."""
    return _sweep(subject, (13, 11), (9, 15))


@check()
def single_row_or_column(subject: Subject) -> str:
    """Maps of one row or one column work."""
    return _sweep(subject, (1, 9), (9, 1))


@check()
def single_token(subject: Subject) -> str:
    """A map of one token works."""
    return _sweep(subject, (1, 1))


@check()
def smaller_than_window(subject: Subject) -> str:
    """Maps smaller than any window, kernel or number of regions work."""
    return _sweep(subject, (2, 3), (5, 4))


@check()
def padding_on_one_axis(subject: Subject) -> str:
    """Maps that are padded along one axis only work; a crop by minus zero would return nothing."""
    return _sweep(subject, (14, 13), (13, 14), (16, 15), (15, 16), (7, 5), (5, 7))


@check()
def larger_than_nominal(subject: Subject) -> str:
    """Maps larger than the site's work."""
    return _sweep(subject, (18, 19), (22, 17))


def _sweep(subject: Subject, *sizes: Size) -> str:
    """Run forward and backward on each size, by default the site's, and look at the shape of the result."""
    refused: dict[str, str] = {}
    for site, impl, size in subject.cases(*sizes, impls=True):
        x = subject.image(site, size, batch=2)
        try:
            found = gradients(subject.build(site, impl), x)
        except ImplementationError as error:
            if impl == "eager":
                raise
            refused[impl] = str(error)
            continue
        y, grad = found["output"], found["input"]
        if y is None or y.shape != x.shape or y.dtype != x.dtype:
            got = "nothing" if y is None else f"{tuple(y.shape)} {y.dtype}"
            raise Failure(f"expected {tuple(x.shape)} {x.dtype} back, got {got}")
        if not y.isfinite().all():
            raise Failure("the output is not finite")
        if grad is None or not grad.isfinite().all():
            raise Failure(f"the input's gradient is {'missing' if grad is None else 'not finite'}")
    shown = ", ".join(map(show, sizes)) or "each site's map"
    text = f"{shown}; {len(subject.sites)} kinds of site; implementations {', '.join(subject.impls)}"
    return text + "".join(f"; {impl} refuses some: {reason}" for impl, reason in refused.items())
