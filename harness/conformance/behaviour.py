"""Checks: the output is a function of the image and the weights, and of nothing else."""

import copy
import pickle

import torch
from torch import Tensor, nn

from attnbench.harness.conformance.subject import (
    EQUAL,
    ODD,
    Failure,
    Subject,
    check,
    difference,
    gradients,
    noise,
    run,
    show,
)


@check("odd_sizes")
def determinism(subject: Subject) -> str:
    """Two modules with equal weights give bit for bit the same output and gradients."""
    for site, impl, size in subject.cases(ODD, impls=True):
        x = subject.image(site, size, batch=2)
        first, again = (_seeded(seed, subject.build(site, impl), x) for seed in (1, 2))
        for name, value in first.items():
            other = again[name]
            if value is not None and other is not None and not torch.equal(value, other):
                raise Failure(f"{name} differs between two runs by {difference(other, value):.1e}")
    return "outputs and all gradients, twice"


def _seeded(seed: int, module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    torch.manual_seed(seed)
    return gradients(module, x)


@check("determinism")
def depends_on_input(subject: Subject) -> str:
    """Another image gives another output."""
    for site, impl, size in subject.cases(ODD):
        one, other = (run(subject.build(site, impl), subject.image(site, size, seed=s)) for s in (1, 2))
        if torch.equal(one, other):
            raise Failure("two different images give the same output")
    return "two images, two outputs"


@check("determinism")
def batch_independence(subject: Subject) -> str:
    """An image's output stays bit for bit the same when the other images of the batch change."""
    for site, impl, size in subject.cases(ODD, impls=True):
        x, other = (subject.image(site, size, batch=3, seed=s) for s in (1, 2))
        expected = run(subject.build(site, impl), x)
        for i in range(3):
            mixed = other.clone()
            mixed[i] = x[i]
            if not torch.equal(run(subject.build(site, impl), mixed)[i], expected[i]):
                raise Failure(f"the output of image {i} of 3 changes with the other images")
        error = difference(run(subject.build(site, impl), x[:1]), expected[:1])
        if error > EQUAL:
            raise Failure(f"an image alone gives another output than in a batch, by {error:.1e}")
    return "each of 3 images among others, and one alone"


@check("odd_sizes")
def input_not_modified(subject: Subject) -> str:
    """The input holds the same values after the call."""
    for site, impl, size in subject.cases(ODD, impls=True):
        x = subject.image(site, size, batch=2)
        before = x.clone()
        with torch.no_grad():
            subject.build(site, impl)(x)
        if not torch.equal(x, before):
            raise Failure("forward writes into its input")
    return "values before and after a call"


@check("determinism", "smaller_than_window", "larger_than_nominal")
def no_state_between_calls(subject: Subject) -> str:
    """Calls on other images and other sizes change neither a later output nor a buffer."""
    sizes = (ODD, (5, 4), (18, 19), ODD)
    for site, impl, _ in subject.cases(impls=True):
        module = subject.build(site, impl)
        state = {name: value.clone() for name, value in module.state_dict().items()}
        x = subject.image(site, ODD)
        expected = run(subject.build(site, impl), x)
        for seed, size in enumerate(sizes, start=1):
            if seed > 1:
                run(module, subject.image(site, size, seed=seed))
            subject.image(site, ODD)
            if not torch.equal(run(module, x), expected):
                raise Failure(f"the output differs after a call on another image of {show(size)}")
        run(module.train(), x)
        changed = [n for n, v in module.state_dict().items() if not torch.equal(v, state[n])]
        if changed:
            raise Failure(f"calls change {', '.join(changed)}")
    return f"between calls on maps of {', '.join(map(show, sizes[1:]))}"


@check("determinism")
def train_equals_eval(subject: Subject) -> str:
    """Training mode computes the same as evaluation mode, since no dropout is asked for."""
    for site, impl, size in subject.cases(ODD):
        x = subject.image(site, size, batch=2)
        error = difference(run(subject.build(site, impl).train(), x), run(subject.build(site, impl), x))
        if error > EQUAL:
            raise Failure(f"the outputs in train() and eval() differ by {error:.1e}")
    return "outputs of train() and eval()"


@check("determinism")
def strided_input(subject: Subject) -> str:
    """An input in channels-first memory, or cut from a larger map, gives what a contiguous one gives."""
    for site, impl, size in subject.cases(ODD, impls=True):
        x = subject.image(site, size, batch=2)
        expected = run(subject.build(site, impl), x)
        larger = noise((2, size[0] + 2, size[1] + 2, site.dim), seed=3)
        larger[:, 1:-1, 1:-1] = x
        memory = {"channels-first": x.movedim(3, 1).contiguous().movedim(1, 3), "cut": larger[:, 1:-1, 1:-1]}
        for name, view in memory.items():
            error = difference(subject.build(site, impl)(view), expected)
            if error > EQUAL:
                raise Failure(f"an input in {name} memory gives another output, by {error:.1e}")
    return "channels-first and cut from a larger map"


@check("determinism")
def state_dict_round_trip(subject: Subject) -> str:
    """A module built with another seed that loads the weights gives the same output."""
    for site, impl, size in subject.cases(ODD):
        x = subject.image(site, size)
        module, other = subject.build(site, impl), subject.build(site, impl, seed=1)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)
        other.load_state_dict(module.state_dict())
        if not torch.equal(run(other, x), run(module, x)):
            raise Failure("a module that loaded the state_dict gives another output")
    return "loaded into a module with other weights"


@check("determinism")
def deepcopy_and_pickle(subject: Subject) -> str:
    """A deep copy and an unpickled module give the same output."""
    for site, impl, size in subject.cases(ODD, impls=True):
        module, x = subject.build(site, impl), subject.image(site, size)
        expected = run(subject.build(site, impl), x)
        copies = {"deepcopy": copy.deepcopy(module), "pickle": pickle.loads(pickle.dumps(module))}
        for name, twin in copies.items():
            if not torch.equal(run(twin, x), expected):
                raise Failure(f"the result of {name} gives another output")
    return "copies give the same output"
