"""What a Triton kernel takes of a GPU that is not here: registers, stack, shared memory, widths of loads.

Triton compiles for any architecture without a device, with the ``ptxas`` it ships; ``cuobjdump`` and
``nvdisasm``, shipped too, read the binary. A kernel is compiled for given arguments as its launch would be:
pointers count as 16-byte aligned, integers divisible by 16 are marked so (without which no load is 128 bits
wide), and 1 and ``None`` are constants.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

TOOLS = ("ptxas", "cuobjdump", "nvdisasm")
_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Resources:
    """Of one compiled kernel.

    Attributes:
        registers: of a thread.
        stack_bytes: of a thread; more than zero means spilled registers, or arrays indexed at run time.
        spills: instructions that store to or load from the stack.
        shared_bytes: of a program.
        loads, wide_loads: instructions that read global memory; those that read 128 bits a thread.
        products: instructions of the matrix units; on 10.0 one of a whole tile, issued by one thread.
        instructions: all.
    """

    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    loads: int
    wide_loads: int
    products: int
    instructions: int


def missing() -> str:
    """Why no kernel can be compiled here; empty if one can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1: kernels are interpreted, not compiled"
    absent = [tool for tool in TOOLS if not (_tools() / tool).is_file()]
    return f"this triton ships without {', '.join(absent)}" if absent else ""


def resources(
    kernel: Any,
    arguments: Sequence[Any],
    constants: dict[str, Any],
    *,
    capability: int,
    warps: int,
    stages: int,
) -> Resources:
    """Compile a kernel and read its binary.

    Args:
        kernel: a function of ``triton.jit``.
        arguments: those that are not ``constants``, in order: tensors (on any device, ``meta`` too),
            integers, floats or ``None``.
        constants: compile-time constants by name.
        capability: of the device, 80, 90 or 100 for 8.0, 9.0 or 10.0.
        warps, stages: options of the launch.

    Raises:
        RuntimeError: a tool failed.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constexprs, attributes = _specialise(kernel.arg_names, arguments, constants)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return _read(compiled.asm["cubin"], compiled.metadata.shared)


def _specialise(
    names: Sequence[str], arguments: Sequence[Any], constants: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[list[Any]]]]:
    """Signature, constants and divisibility, as Triton's launcher derives them."""
    signature = dict.fromkeys(names, "constexpr")
    constexprs, attributes = dict(constants), {}
    given = iter(arguments)
    for position, name in enumerate(names):
        if name in constants:
            continue
        value = next(given)
        if value is None or (isinstance(value, int) and value == 1):
            constexprs[name] = value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = _POINTERS[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    return signature, constexprs, attributes


def _read(binary: bytes, shared_bytes: int) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        usage = _run("cuobjdump", "--dump-resource-usage", str(path))
        code = _run("nvdisasm", str(path))
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump names no registers: {usage.strip()[:200]!r}")
    return Resources(
        registers=int(found[1]),
        stack_bytes=int(found[2]),
        spills=_count(r"\b(STL|LDL)\b", code),
        shared_bytes=shared_bytes,
        loads=_count(r"\b(LDG|LDGSTS)\.", code),
        wide_loads=_count(r"\b(LDG|LDGSTS)\.[\w.]*128", code),
        products=_count(r"\b(HMMA|HGMMA)\.|\bUTC\w*MMA\b", code),
        instructions=_count(r"/\*[0-9a-f]{4,}\*/\s+\S.*;", code),
    )


def _tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([_tools() / tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{tool} failed: {done.stderr.strip()[:200]}")
    return done.stdout


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text))
