"""Each metric on objects of known size: a sleep of known length, shared parameters, images held out."""

import time

import pytest
import torch
from torch import nn

from attnbench.harness import environment
from attnbench.harness.counting import parameters
from attnbench.harness.timing import throughput
from attnbench.harness.training import accuracy, digits
from attnbench.harness.training.train import Recipe, train

CPU = torch.device("cpu")


def test_parameters_shared_by_two_modules_count_once() -> None:
    layer = nn.Linear(3, 3)
    assert parameters.measure(nn.Sequential(layer, layer, nn.Linear(3, 1, bias=False))) == 12 + 3


@pytest.mark.parametrize("milliseconds", [20, 60])
def test_clock_on_work_of_known_length(milliseconds: int) -> None:
    def step() -> torch.Tensor:
        time.sleep(milliseconds / 1e3)
        return torch.zeros(1)

    clock = throughput.device_clock(CPU)
    repeats = throughput.warm_up(step, clock, 2)
    assert repeats == 1
    effort = throughput.Effort(warmup=1, min_blocks=5, max_blocks=5, budget_s=0)
    blocks = throughput.measure_blocks({"a": step}, {"a": repeats}, clock, effort)
    value, samples, spread = throughput.images_per_s((b["a"] for b in blocks), batch_size=4)
    assert len(samples) == 5
    assert value == pytest.approx(4 / (milliseconds / 1e3), rel=0.2)
    assert spread["min"] <= spread["q25"] <= value <= spread["q75"] <= spread["max"]


def test_short_steps_are_repeated_inside_one_sample() -> None:
    fake = {"n": 0}

    def clock(step: throughput.Step, repeats: int) -> float:
        fake["n"] += repeats
        return 0.001 * repeats

    repeats = throughput.warm_up(lambda: torch.zeros(1), clock, 3)
    assert repeats == 20
    effort = throughput.Effort(1, 2, 2, 0)
    blocks = throughput.measure_blocks({"a": lambda: torch.zeros(1)}, {"a": repeats}, clock, effort)
    assert blocks == [{"a": pytest.approx(0.001)}] * 2


def test_candidates_are_interleaved_in_changing_order() -> None:
    order: list[str] = []
    steps = {name: lambda name=name: order.append(name) or torch.zeros(1) for name in "abcd"}
    effort = throughput.Effort(1, 6, 6, 0)
    throughput.measure_blocks(steps, dict.fromkeys(steps, 1), throughput.device_clock(CPU), effort)
    rounds = [order[i : i + 4] for i in range(0, len(order), 4)]
    assert all(sorted(r) == ["a", "b", "c", "d"] for r in rounds)
    assert len(set(map(tuple, rounds))) > 1


def test_drift_falls_on_all_alike() -> None:
    now = {"t": 1.0}

    def clock(step: throughput.Step, repeats: int) -> float:
        now["t"] *= 1.01  # the machine grows slower with every sample
        return now["t"]

    effort = throughput.Effort(1, 60, 60, 0)
    steps = {"a": lambda: torch.zeros(1), "b": lambda: torch.zeros(1)}
    blocks = throughput.measure_blocks(steps, {"a": 1, "b": 1}, clock, effort)
    ratios = sorted(block["a"] / block["b"] for block in blocks)
    assert ratios[len(ratios) // 2] == pytest.approx(1.0, abs=0.011)


def test_blocks_of_an_interrupted_run_are_kept_and_every_new_one_is_told() -> None:
    told: list[dict[str, float]] = []
    done = [{"a": 1.0}, {"a": 2.0}]
    effort = throughput.Effort(1, 5, 5, 0)
    clock = throughput.device_clock(CPU)
    blocks = throughput.measure_blocks(
        {"a": lambda: torch.zeros(1)}, {"a": 1}, clock, effort, done=done, on_block=told.append
    )
    assert blocks[:2] == done
    assert blocks[2:] == told
    assert len(told) == 3


def test_the_budget_ends_a_measurement() -> None:
    effort = throughput.Effort(1, 2, 10**6, 0.3)
    start = time.monotonic()
    throughput.measure_blocks({"a": lambda: torch.zeros(1)}, {"a": 1}, throughput.device_clock(CPU), effort)
    assert time.monotonic() - start < 3


def test_a_step_that_is_not_finite_is_refused() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        throughput.warm_up(lambda: torch.tensor([1.0, float("nan")]), throughput.device_clock(CPU), 1)


class Lookup(nn.Module):
    """Answers by the nearest training image; knows nothing of order or seed."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__()
        self.images, self.labels = images.flatten(1), labels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(x.flatten(1), self.images).argmin(dim=1)
        return nn.functional.one_hot(self.labels[nearest], 10).float()


def test_digits_are_real_held_out_and_stratified() -> None:
    split = digits.load(32)
    assert split.train_images.shape == (1198, 1, 32, 32)
    assert split.test_images.shape == (599, 1, 32, 32)
    assert torch.bincount(split.test_labels).min() >= 55
    shared = torch.cdist(split.test_images.flatten(1), split.train_images.flatten(1)).min()
    assert shared > 0
    right = accuracy.evaluate(Lookup(split.train_images, split.train_labels), *split[2:])
    assert right / 599 > 0.97  # what nearest neighbours are known to reach on these digits


def test_each_test_image_counts_once() -> None:
    images, labels = torch.zeros(10, 1), torch.arange(10)
    model = nn.Sequential(nn.Linear(1, 10))
    torch.nn.init.zeros_(model[0].weight)
    torch.nn.init.zeros_(model[0].bias)
    model[0].bias.data[3] = 1
    assert accuracy.evaluate(model, images, labels, batch_size=4) == 1


def test_wilson_interval() -> None:
    low, high = accuracy.wilson(95, 100)
    assert low == pytest.approx(0.8882, abs=1e-3)
    assert high == pytest.approx(0.9785, abs=1e-3)


def test_training_learns_and_repeats_with_its_seed() -> None:
    split = digits.load(8)
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        losses.append(train(model, split.train_images, split.train_labels, Recipe(epochs=8, shift=0), seed=1))
    assert losses[0] == losses[1]
    assert accuracy.evaluate(model, split.test_images, split.test_labels) / 599 > 0.85


def test_training_that_diverges_is_an_error() -> None:
    split = digits.load(8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model[1].weight.data.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="the loss is"):
        train(model, split.train_images, split.train_labels, Recipe(epochs=1), seed=0)


def test_environment_says_what_matters() -> None:
    facts = environment.describe(CPU)
    assert facts["libraries"]["torch"] == torch.__version__.partition("+")[0] or facts["libraries"]["torch"]
    assert {"threads", "tf32_matmul", "tf32_cudnn", "deterministic", "allocator", "device_name"} <= set(facts)


@pytest.mark.gpu
def test_clock_on_a_gpu_waits_for_the_device() -> None:
    a = torch.randn(4096, 4096, device="cuda")
    clock = throughput.device_clock(torch.device("cuda"))
    clock(lambda: a @ a, 3)
    assert clock(lambda: a @ a, 40) > 5 * clock(lambda: a @ a, 2)
