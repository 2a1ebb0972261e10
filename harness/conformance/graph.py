"""Checks: the module can be compiled, exported, and run where there is no data."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from attnbench.harness.conformance.subject import EQUAL, ODD, Failure, Subject, check, difference, run


@check("determinism")
def compile_fullgraph(subject: Subject) -> str:
    """torch.compile(fullgraph=True) traces forward and backward, and the result is the same."""
    for site, impl, size in subject.cases(ODD):
        x = subject.image(site, size)
        expected = run(subject.build(site, impl), x).detach()
        torch.compiler.reset()
        module = subject.build(site, impl)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=False)
        y = compiled(x.requires_grad_().clone())
        (grad,) = torch.autograd.grad(y.sum(), x)
        error = difference(y.detach(), expected)
        if error > EQUAL or not grad.isfinite().all():
            raise Failure(f"the compiled module gives another output, by {error:.1e}")
    torch.compiler.reset()
    return "no graph break; forward and backward traced"


@check("determinism")
def export(subject: Subject) -> str:
    """torch.export makes a program that gives the same output."""
    for site, impl, size in subject.cases(ODD):
        x = subject.image(site, size)
        program = torch.export.export(subject.build(site, impl), (x.clone(),))
        error = difference(run(program.module(), x), run(subject.build(site, impl), x))
        if error > EQUAL:
            raise Failure(f"the exported program gives another output, by {error:.1e}")
    return "exported and run"


@check("odd_sizes")
def meta_device(subject: Subject) -> str:
    """The module is built and run on the meta device, which holds shapes and no data."""
    return _without_data(subject, "meta")


@check("odd_sizes")
def fake_tensors(subject: Subject) -> str:
    """The module is built and run under FakeTensorMode."""
    return _without_data(subject, "fake")


def _without_data(subject: Subject, kind: str) -> str:
    for site, impl, size in subject.cases((14, 14), ODD):
        subject.image(site, size)  # notes the size, for the report
        with torch.device("meta") if kind == "meta" else FakeTensorMode():
            module = subject.spec.build(site, impl=impl, **subject.options)
            x = torch.empty(2, *size, site.dim)
            y = module(x)
        if y.shape != x.shape or y.device != x.device:
            raise Failure(f"expected {tuple(x.shape)} on {x.device}, got {tuple(y.shape)} on {y.device}")
    return "built and run"
