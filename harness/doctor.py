"""What works on this machine, found out by running it: that a package imports proves nothing.

Each probe runs in a worker, so a binary that crashes or hangs is a finding like any other.
"""

import importlib
import importlib.metadata
import os
import platform
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from attnbench import backends, native
from attnbench.errors import AttnbenchError
from attnbench.harness import environment, frequencies
from attnbench.harness.models.backbone import create_model
from attnbench.harness.workers.isolation import Worker, WorkerError, Workers

_LIMIT_S = 120.0
_LEAST_DISK = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that works or does not.

    Args:
        name: of the thing.
        state: ``ok``; ``absent`` (optional, and not here); ``problem``.
        says: what was found.
        advice: what to do about it; empty if there is nothing to do.
        required: whether 'attnbench run' needs it.
    """

    name: str
    state: str
    says: str
    advice: str = ""
    required: bool = False


def examine(device: torch.device, out: Path) -> Iterator[Finding]:
    """All findings, one after another.

    Args:
        device: that the back ends are tried on.
        out: folder that records would be written to.
    """
    yield _process_start()
    with Workers(Probes, device, out, time_limit_s=_LIMIT_S) as workers:
        for name, (method, advice, required) in PROBES.items():
            try:
                yield Finding(name, "ok", workers.call(method), required=required)
            except WorkerError as error:
                reason = error.reason.removeprefix("AbsentError: ")
                absent = reason != error.reason or (not required and error.status == "failed")
                state = "absent" if absent else "problem"
                yield Finding(name, state, reason, advise(reason, advice), required)


def _process_start() -> Finding:
    advice = "use 'attnbench run --in-process', and report this"
    try:
        Worker(dict, time_limit_s=_LIMIT_S).close()
        began = time.perf_counter()
        Worker(dict, time_limit_s=_LIMIT_S).close()
    except WorkerError as error:
        return Finding("fresh processes", "problem", error.reason, advice, required=True)
    spent = 1e3 * (time.perf_counter() - began)
    return Finding("fresh processes", "ok", f"one starts in {spent:.0f} ms", required=True)


NOT_INSTALLED = "not installed"


def advise(reason: str, advice: str) -> str:
    """What to do about it: nobody is told to install what is installed and does not run."""
    if reason == NOT_INSTALLED or not advice.startswith("pip install 'attnbench["):
        return advice
    return "it is installed already, and cannot run here for the reason given"


class AbsentError(Exception):
    """Something optional is not here."""


class Probes:
    """Each method says in a line what it found, or raises.

    Args:
        device, out: see :func:`examine`.
    """

    def __init__(self, device: torch.device, out: Path) -> None:
        self.device, self.out = device, out
        environment.pin_allocator()
        warnings.simplefilter("ignore")

    def versions(self) -> str:
        """Libraries that are installed, of those that matter."""
        found = environment.describe(self.device)["libraries"]
        texts = [f"{name} {version}" for name, version in found.items()]
        return ", ".join([f"python {platform.python_version()}", *texts])

    def model(self) -> str:
        """A step of the smallest model with plain attention."""
        model = create_model("swin_pico", "full", impl="eager").to(self.device)
        began = time.perf_counter()
        model(torch.zeros(1, 1, 28, 28, device=self.device)).sum().backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return f"swin_pico ran forward and backward on {self.device} ({time.perf_counter() - began:.2f} s)"

    def training_data(self) -> str:
        """The images that accuracy is measured on."""
        from attnbench import datasets

        spec = datasets.of_layout("swin_pico")
        split = spec.load()(8)
        counts = f"{len(split.train_labels)} training and {len(split.test_labels)} test images"
        return f"{spec.facts.title}: {counts}"

    def cuda(self) -> str:
        """A product on each GPU."""
        if not torch.cuda.is_available():
            built = "this torch is built without CUDA" if torch.version.cuda is None else "no GPU answers"
            raise AbsentError(built)
        names = []
        for index in range(torch.cuda.device_count()):
            tiny = torch.ones(8, 8, device=f"cuda:{index}")
            if float((tiny @ tiny).sum()) != 512.0:
                raise RuntimeError(f"cuda:{index} computes wrong products")
            names.append(torch.cuda.get_device_name(index))
        return f"{', '.join(names)}; CUDA {torch.version.cuda}, driver {frequencies.driver() or 'unknown'}"

    def nvml(self) -> str:
        """Clocks and temperature of the first GPU."""
        with frequencies.nvml() as library:
            if library is None:
                raise AbsentError("NVML does not answer")
            if not library.nvmlDeviceGetCount():
                raise AbsentError("NVML knows no GPU")
            handle = library.nvmlDeviceGetHandleByIndex(0)
            mhz = library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)
            return f"{library.nvmlDeviceGetCount()} GPU(s), the first at {mhz} MHz"

    def sdpa(self) -> str:
        """The kernels of scaled_dot_product_attention that take a small call."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kernels = ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION")
        half = torch.bfloat16
        tiny = torch.ones(1, 2, 64, 32, device=self.device, dtype=half)
        runs = []
        for kernel in kernels:
            try:
                with sdpa_kernel(getattr(SDPBackend, kernel)):
                    F.scaled_dot_product_attention(tiny, tiny, tiny)
            except (RuntimeError, AttributeError):
                continue
            runs.append(kernel.lower().removesuffix("_attention"))
        if not runs:
            raise RuntimeError("no kernel takes bfloat16 tensors")
        return f"{', '.join(runs)} run on {self.device.type} in bfloat16"

    def flex(self) -> str:
        """FlexAttention, not compiled."""
        from torch.nn.attention.flex_attention import flex_attention

        tiny = torch.ones(1, 1, 128, 16, device=self.device)
        flex_attention(tiny, tiny, tiny)
        return f"runs on {self.device.type} uncompiled; compiled where torch.compile runs"

    def compiler(self) -> str:
        """torch.compile of a small function."""
        backends.require_compiler()
        doubled = torch.compile(lambda x: torch.sin(x) * 2)(torch.ones(16, device=self.device))
        if not torch.isfinite(doubled).all():
            raise RuntimeError("a compiled function computes wrong values")
        return f"compiles and runs for {self.device.type}"

    def triton(self) -> str:
        """Triton on the device."""
        try:
            import triton
        except Exception as error:
            raise AbsentError(f"does not import ({_first_line(error)})") from error
        if self.device.type != "cuda":
            raise AbsentError(f"triton {triton.__version__} imports; its kernels need a GPU")
        self._run_fused()
        return f"triton {triton.__version__}; BRA's fused kernel ran"

    def native(self) -> str:
        """The compiled C++ kernels."""
        found = " ".join(native.find_compiler())
        self.device = torch.device("cpu")
        self._run_fused()
        return f"{found}; BRA's fused kernel was built and ran; kept in {native.cache_folder()}"

    def natten(self) -> str:
        """natten's operator."""
        self._installed("natten")
        backends.natten_na2d()
        return f"natten {importlib.metadata.version('natten')} runs"

    def xformers(self) -> str:
        """xformers' operator."""
        self._installed("xformers")
        backends.xformers_attention()
        return f"xformers {importlib.metadata.version('xformers')} runs"

    def matplotlib(self) -> str:
        """A figure, drawn and thrown away."""
        self._installed("matplotlib")
        figure = importlib.import_module("matplotlib.figure").Figure()
        figure.subplots().plot([0, 1])
        figure.savefig(os.devnull, format="png")
        return f"matplotlib {importlib.metadata.version('matplotlib')} draws"

    def allocator(self) -> str:
        """Whether freed memory stays in the process, which speeds are measured with."""
        if not environment.allocator_is_pinned():
            raise AbsentError("the C library has no mallopt; large tensors are mapped anew in each step")
        return "freed memory is kept in the process"

    def threads(self) -> str:
        """Threads of torch and processors it may use."""
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = torch.get_num_threads()
        if threads > allowed:
            raise RuntimeError(f"torch runs {threads} threads on {allowed} processors")
        policy = os.environ.get("OMP_WAIT_POLICY", "unset")
        return f"{threads} threads on {allowed} processors, OMP_WAIT_POLICY {policy}"

    def clock(self) -> str:
        """The smallest step of the clock that speeds are measured with."""
        steps = []
        for _ in range(1000):
            began = now = time.perf_counter()
            while now == began:
                now = time.perf_counter()
            steps.append(now - began)
        least = min(steps)
        if least > 1e-4:
            raise RuntimeError(f"the clock moves in steps of {1e3 * least:.2g} ms")
        about = frequencies.describe() or {"frequency": "unknown"}
        return f"resolves {1e9 * least:.0f} ns; processor: {', '.join(f'{k} {v}' for k, v in about.items())}"

    def disk(self) -> str:
        """Room where records go and where compiled code is kept."""
        texts = []
        for place in (self.out, native.cache_folder()):
            there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
            if not os.access(there, os.W_OK):
                raise AttnbenchError(f"{there} cannot be written")
            free = shutil.disk_usage(there).free
            if free < _LEAST_DISK:
                raise AttnbenchError(f"{there} has {free / 2**20:.0f} MiB left")
            texts.append(f"{free / 2**30:.0f} GiB free for {place}")
        return ", ".join(texts)

    def _run_fused(self) -> None:
        model = create_model("swin_pico", "bra", impl="fused").to(self.device)
        model(torch.zeros(1, 1, 28, 28, device=self.device)).sum().backward()

    @staticmethod
    def _installed(package: str) -> None:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise AbsentError(NOT_INSTALLED) from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


Advice = tuple[str, str, bool]
PROBES: dict[str, Advice] = {
    "libraries": ("versions", "", True),
    "model": (
        "model",
        "pip install --force-reinstall attnbench torch timm",
        True,
    ),
    "training data": ("training_data", "pip install scikit-learn", True),
    "disk": ("disk", "free some space, or give another --out DIR or ATTNBENCH_CACHE", True),
    "CUDA": (
        "cuda",
        "install NVIDIA's driver and a torch built for CUDA; or run on the CPU",
        False,
    ),
    "NVML": ("nvml", "on a GPU: pip install 'attnbench[gpu]', else throttled blocks are not noticed", False),
    "SDPA": ("sdpa", "use --impl eager", False),
    "FlexAttention": ("flex", "use another --impl", False),
    "torch.compile": (
        "compiler",
        "install g++ (CPU) or triton (GPU); only --impl compiled needs it",
        False,
    ),
    "Triton": ("triton", "on a GPU: pip install triton; on a CPU the C++ kernels serve instead", False),
    "C++ kernels": (
        "native",
        "install g++ or clang++, or name one in CXX; else auto takes eager",
        False,
    ),
    "natten": ("natten", "pip install 'attnbench[natten]'; only --impl natten needs it", False),
    "xformers": (
        "xformers",
        "pip install 'attnbench[xformers]', on a GPU; only --impl xformers needs it",
        False,
    ),
    "matplotlib": ("matplotlib", "pip install 'attnbench[report]'; only plots need it", False),
    "allocator": ("allocator", "compare only records of machines alike in this", False),
    "threads": ("threads", "set OMP_NUM_THREADS to the number of processors, or give --threads", False),
    "clock": ("clock", "choose another clock source; short steps cannot be timed", False),
}
"""What is probed: method of :class:`Probes`, what to do if it fails, whether 'attnbench run' needs it."""
