"""Each check rejects the liar made for it, and no other; an honest mechanism passes all."""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from attnbench import MechanismSpec, UnknownNameError, registry
from attnbench.harness.conformance import checks
from attnbench.harness.conformance.subject import Failure, Subject
from attnbench.registry import Facts


def _load_liars() -> ModuleType:
    path = Path(__file__).parents[2] / "liars.py"
    spec = importlib.util.spec_from_file_location("attnbench_liars", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes can be pickled
    spec.loader.exec_module(module)
    return module


liars = _load_liars()


@pytest.mark.parametrize("name", liars.SPECS)
def test_liar_is_caught_by_the_checks_named_for_it_alone(name: str) -> None:
    results = checks.check_mechanism(liars.SPECS[name])
    failed = {result.check: result.why for result in results if result.failed}
    assert set(failed) == set(liars.CAUGHT_BY[name]), failed
    for result in results:
        assert result.passed or result.failed or result.skipped
        if result.failed:
            assert result.reproduce.startswith(f"attnbench check {name} ")
            assert f"--only {result.check}" in result.reproduce


def test_every_check_has_a_liar() -> None:
    caught = {check for checks in liars.CAUGHT_BY.values() for check in checks}
    assert {check.name for check in checks.iter_checks()} == caught


def test_every_check_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "checks.md").read_text(encoding="utf-8")
    assert all(f"`{check.name}`" in text for check in checks.iter_checks())
    assert all(check.rule.endswith(".") for check in checks.iter_checks())


def test_a_check_that_builds_on_a_failed_one_is_skipped() -> None:
    results = {r.check: r for r in checks.check_mechanism(liars.SPECS["Random"], only=["support", "builds"])}
    assert results["builds"].passed
    assert results["support"].skipped.startswith("needs pattern")
    assert not results["support"].failed


def test_an_implementation_that_cannot_run_is_skipped_with_its_reason() -> None:
    honest_but_absent = type("Absent", (liars.FasterIsDifferent,), {})
    facts = Facts(title="Absent", pattern="static", impls=("eager", "absent"))
    spec = MechanismSpec("absent", facts, liars.__file__, lambda: honest_but_absent)
    (result,) = checks.check_mechanism(spec, only=["implementations_equal"])
    assert not result.failed
    assert "absent not run: implementation 'absent' cannot run here: it is absent" in result.skipped


def test_a_failure_can_be_reproduced_in_python() -> None:
    spec = liars.SPECS["CropsByMinusZero"]
    (result,) = checks.check_mechanism(spec, only=["padding_on_one_axis"])
    assert "height=14, width=13" in result.reproduce
    module, x = checks.example(spec, stage=0, block=0, height=14, width=13)
    assert module(x).shape[1] == 0


def test_results_do_not_change_the_state_of_torch() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    checks.check_mechanism("identity")
    assert torch.equal(torch.rand(2), expected)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.check_mechanism("bro"), "did you mean bra"),
        (lambda: checks.check_mechanism("bra", only=["suport"]), "did you mean support"),
        (lambda: checks.run_check("bra", "suport"), "did you mean support"),
    ],
)
def test_unknown_names(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: 2 * weights, "of output (0, 0), the weights of head 0 add up to 2, not to one"),
        (
            lambda weights: weights.roll(1, 2),
            "token (0, 0) has weight in attention_map, but the output ign",
        ),
        (lambda weights: weights[0], "must be (queries, heads, N) = (5, heads, 49), got (1, 49)"),
        (lambda weights: -weights, "holds negative or infinite weights"),
    ],
)
def test_a_map_of_weights_is_held_to_what_the_module_does(
    change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    """Each query reads the token before it; support() allows everything."""

    class Before(liars.Honest):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.told(x) @ self.qkv(x)[..., -self.dim :].flatten(1, 2)).view_as(x)

        def told(self, x: torch.Tensor) -> torch.Tensor:
            n = x.shape[1] * x.shape[2]
            place = torch.arange(n)
            logits = torch.full((n, n), float("-inf"), dtype=x.dtype)
            logits[place, (place - 1) % n] = 0
            return logits.softmax(-1)

        def attention_map(self, x: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
            return change(self.told(x)[queries][:, None])

        def support(self, height: int, width: int) -> torch.Tensor:
            return torch.ones(height * width, height * width, dtype=torch.bool)

    facts = Facts(title="Before", pattern="static", impls=("eager",))
    subject = Subject(MechanismSpec("before", facts, liars.__file__, lambda: Before))
    with pytest.raises(Failure, match=re.escape(message)):
        checks.find_check("attention_map").function(subject)


@pytest.mark.parametrize(("factor", "passes"), [(1.0, True), (1.01, False)])
def test_an_implementation_without_float64_is_compared_where_it_runs(factor: float, passes: bool) -> None:
    class Single(liars.FasterIsDifferent):
        def weights(self, logits: torch.Tensor) -> torch.Tensor:
            if self.impl != "fast":
                return logits.softmax(-1)
            if logits.dtype != torch.float32:
                raise RuntimeError("this kernel knows float32 only")
            return (factor * logits).softmax(-1)

    facts = Facts(title="Single", pattern="static", impls=("fast", "eager"))
    spec = MechanismSpec("single", facts, liars.__file__, lambda: Single)
    (result,) = checks.check_mechanism(spec, only=["implementations_equal"])
    assert result.passed == passes
    assert "float32" in result.why


@pytest.mark.parametrize(("name", "kinds"), [("identity", 2), ("full", 3), ("shifted_window", 6)])
def test_places_whose_modules_are_equal_are_checked_once(name: str, kinds: int) -> None:
    """Of eight places: two sizes of map; also two numbers of heads; also two blocks."""
    assert len(Subject(registry.get(name)).sites) == kinds
