"""Optional back ends, probed by running a tiny op: that a package imports proves nothing."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

from attnbench.errors import ImplementationError


def xformers_attention() -> Callable[..., Any]:
    """Memory-efficient attention of xformers, with the signature of ``mechanisms._attend.attend``.

    Raises:
        ImplementationError: xformers is not installed or its operator does not run here.
    """
    return _require("xformers", _probe_xformers)


def natten_na2d() -> Callable[..., Any]:
    """``natten.na2d`` on q, k, v (B, H, W, heads, d).

    Raises:
        ImplementationError: natten is not installed or its operator does not run here.
    """
    return _require("natten", _probe_natten)


def require_compiler() -> None:
    """Do nothing where torch.compile works.

    Raises:
        ImplementationError: it does not, with its reason.
    """
    _require("compiled", _probe_compiler)


def _require(package: str, probe: Callable[[], Callable[..., Any] | str]) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a slow path or an old binary warns, and still runs or fails
        found = probe()
    if isinstance(found, str):
        raise ImplementationError(f"implementation {package!r} cannot run here: {found}; use impl='eager'")
    return found


@functools.cache
def _probe_xformers() -> Callable[..., Any] | str:
    try:
        import torch
        from xformers.ops import memory_efficient_attention
    except Exception as error:  # a binary built for another torch fails in many ways
        return _not_imported("xformers", error)

    def attention(q: Any, k: Any, v: Any, *, scale: float, bias: Any = None, impl: str = "xformers") -> Any:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # xformers wants (B, L, heads, d)
        return memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale).transpose(1, 2)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tiny = torch.zeros(1, 2, 16, 16, device=device)
        attention(tiny, tiny, tiny, scale=1.0)
    except Exception as error:
        return f"xformers has no operator for {device} ({_first_line(error)})"
    return attention


@functools.cache
def _probe_natten() -> Callable[..., Any] | str:
    try:
        import torch
        from natten import na2d
    except Exception as error:
        return _not_imported("natten", error)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tiny = torch.zeros(1, 8, 8, 1, 32, device=device)
        na2d(tiny, tiny, tiny, kernel_size=3)
    except Exception as error:
        return f"natten does not run on {device} ({_first_line(error)})"
    return na2d


@functools.cache
def _probe_compiler() -> Callable[..., Any] | str:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        compiled = torch.compile(lambda x: x.sin() + 1, fullgraph=True)
        with torch.device(device):
            compiled(torch.zeros(16))
    except Exception as error:
        return f"torch.compile fails on {device} ({_first_line(error)}); on a CPU it needs a C++ compiler"
    return torch.compile


def _not_imported(package: str, error: Exception) -> str:
    """Why, and what to do: to install it again helps only where it is for another torch."""
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return f"{package} is not installed; install attnbench[{package}]"
    return f"{package} is installed and does not import ({_first_line(error)}); install it for this torch"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
