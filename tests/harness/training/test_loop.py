"""The loop on a made-up task: resumption bit for bit, ranks and micro-batches, what stops it."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.data.distributed_sampler import RepeatAugSampler
from torch import Tensor, nn

from attnbench.errors import AttnbenchError
from attnbench.harness.training import checkpoint, loop
from attnbench.harness.training.journal import read_rows
from attnbench.harness.training.order import Draw, make_plan, repeated, shuffled
from attnbench.harness.training.randomness import seed_sample
from attnbench.harness.training.ranks import Ranks


class Points(torch.utils.data.Dataset):
    """Points with noise that is a function of the draw."""

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        seed_sample(draw.seed, "sample", draw.epoch, draw.sample, draw.repeat)
        return torch.randn(4) + draw.sample % 3, draw.sample % 3


class PointTask:
    """Tell which of three heaps a point is of."""

    headline = "right"
    collate = None

    def __init__(self, size: int = 40, poison: int | None = None) -> None:
        self.data: Any = Points()
        self.size, self.poison, self.calls = size, poison, 0

    def order(self, epoch: int) -> Sequence[Draw]:
        return shuffled(self.size, 7, epoch)

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        self.calls += 1
        loss = nn.functional.cross_entropy(module(batch[0]), batch[1])
        return loss * float("nan") if self.calls == self.poison else loss

    def evaluate(self, model: nn.Module, ranks: Ranks) -> dict[str, float]:
        points = torch.arange(3.0)[:, None].expand(3, 4)
        return {"right": float((model(points).argmax(1) == torch.arange(3)).float().mean())}


class Steady:
    """A schedule that is none."""

    def set(self, update: int) -> None:
        pass


def run_of(folder: Path, task: PointTask | None = None, **given: Any) -> loop.Run:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    plan = make_plan(40, 3, 8, given.pop("device_batch", 8), 1, 7)
    return loop.Run(
        model, task or PointTask(), optimizer, Steady(), plan, folder, ema_decay=0.9, clip_grad=1.0, **given
    )


def weights_of(run: loop.Run, folder: Path) -> dict[str, Tensor]:
    _, state = checkpoint.newest(folder, print) or pytest.fail("no checkpoint")
    return state.tensors


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [3, 5, 12])
def test_a_run_that_stops_anywhere_ends_with_the_same_bits(tmp_path: Path, stop: int, workers: int) -> None:
    whole = run_of(tmp_path / "whole")
    result = loop.train(whole)
    parts = tmp_path / "parts"
    loop.train(run_of(parts, stop_after=stop, every=2, workers=workers))
    again = loop.train(run_of(parts, every=2, workers=2 - workers))
    assert again.history == result.history
    assert_same(weights_of(whole, tmp_path / "whole"), weights_of(whole, parts))
    steps = [(row["update"], row["loss"]) for row in read_rows(parts / "steps.csv")]
    assert steps == [(row["update"], row["loss"]) for row in read_rows(tmp_path / "whole" / "steps.csv")]
    assert [row["epoch"] for row in read_rows(parts / "log.csv")] == ["0", "1", "2"]


def test_finished_runs_stay_as_they_are(tmp_path: Path) -> None:
    first = loop.train(run_of(tmp_path))
    kept = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert loop.train(run_of(tmp_path)).history == first.history
    assert {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == kept
    assert len(kept) == 3  # the last two, and the best


def test_another_run_is_not_gone_on_from(tmp_path: Path) -> None:
    loop.train(run_of(tmp_path, stop_after=6, identity={"seed": 1, "layout": "a"}))
    with pytest.raises(
        AttnbenchError, match=r"holds a run with layout 'a', asked for is 'b'; give another --out"
    ):
        loop.train(run_of(tmp_path, identity={"seed": 1, "layout": "b"}))


def test_a_loss_that_is_no_number_stops_with_step_seed_and_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(loop.NotFiniteError) as error:
        loop.train(run_of(tmp_path, PointTask(poison=8)))
    assert "the loss is nan at update 7 (epoch 1, step 2) of seed 7" in str(error.value)
    assert f"the last good checkpoint is {tmp_path}/checkpoint-000000005.safetensors" in str(error.value)
    assert loop.train(run_of(tmp_path)).updates == 15  # and goes on once the cause is gone


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [_cut, _flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_falls_back_with_a_message(tmp_path: Path, harm: Callable[[Path], Any]) -> None:
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    loop.train(run_of(whole))
    loop.train(run_of(hurt, stop_after=11))
    harm(hurt / "checkpoint-000000010.safetensors")
    lines: list[str] = []
    run = run_of(hurt)
    run.progress.say = lines.append  # type: ignore[method-assign]
    loop.train(run)
    assert any("checkpoint-000000010.damaged, going back to the one before" in line for line in lines)
    assert "going on from update 5 of 15" in lines
    assert_same(weights_of(run, whole), weights_of(run, hurt))


def test_where_no_checkpoint_is_whole_nothing_is_begun_anew(tmp_path: Path) -> None:
    loop.train(run_of(tmp_path, stop_after=11))
    for path in tmp_path.glob("checkpoint-*"):
        _cut(path)
    with pytest.raises(AttnbenchError, match=r"no checkpoint of .* is whole; give another --out"):
        loop.train(run_of(tmp_path))


def test_micro_batches_sum_to_the_update_of_the_whole(tmp_path: Path) -> None:
    """Of a model in which samples do not meet: no BatchNorm, no dropout."""
    found = []
    for size in (8, 2):
        torch.manual_seed(0)
        run = run_of(tmp_path / str(size), device_batch=size)
        run.model = nn.Linear(4, 3)
        run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
        with torch.no_grad():
            run.model.weight.fill_(0.1)
            run.model.bias.zero_()
        loop.train(run)
        found.append(run.model.weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_a_full_disk_leaves_the_checkpoints_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(run_of(tmp_path, stop_after=11))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    real = checkpoint.save_file

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        real(tensors, path, metadata)
        path.write_bytes(path.read_bytes()[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(AttnbenchError, match="No space left on device; free some space"):
            loop.train(run_of(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == before
    assert not list(tmp_path.glob(".*.part"))
    assert loop.train(run_of(tmp_path)).updates == 15


def test_what_a_killed_writer_left_is_swept_up(tmp_path: Path) -> None:
    loop.train(run_of(tmp_path, stop_after=6))
    (tmp_path / ".checkpoint-000000010.safetensors.99.part").write_bytes(b"half")
    loop.train(run_of(tmp_path))
    assert not list(tmp_path.glob(".*.part"))


def test_checkpoints_hold_no_pickle_and_say_what_they_are(tmp_path: Path) -> None:
    loop.train(run_of(tmp_path, identity={"recipe": "x"}))
    path = next(iter(checkpoint.numbered(tmp_path).values()))
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    facts = json.loads(header["__metadata__"]["facts"])
    assert (facts["update"], facts["identity"]) == (15, {"recipe": "x"})
    assert {name.partition(".")[0] for name in header} == {"__metadata__", "model", "ema", "optimizer"}
    shutil.copy(path, tmp_path / "other.safetensors")
    assert checkpoint.read(tmp_path / "other.safetensors").facts == facts


def test_orders_are_permutations_of_the_seed_and_the_epoch() -> None:
    orders = {(seed, epoch): shuffled(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert all(sorted(draw.sample for draw in order) == list(range(50)) for order in orders.values())
    assert len({tuple(draw.sample for draw in order) for order in orders.values()}) == 4
    assert list(shuffled(50, 1, 1)) == list(orders[1, 1])


def test_blocks_are_shuffled_as_blocks() -> None:
    blocks = [range(i, i + 10) for i in range(0, 100, 10)]
    order = [draw.sample for draw in shuffled(100, 0, 0, blocks, window=2)]
    assert sorted(order) == list(range(100))
    assert all(len({index // 10 for index in order[i : i + 20]}) == 2 for i in range(0, 100, 20))


def test_repeated_augmentation_is_deits_sampler() -> None:
    """1,281,167 images: 1,281,024 draws of about 427,000, in eight ranks of 160,128."""
    order = repeated(1_281_167, 0, 5, 3)
    assert (len(order), len(order) // 8) == (1_281_024, 160_128)
    assert len(order.indices.unique()) == 427_008
    assert [draw.repeat for draw in order[:6]] == [0, 1, 2, 0, 1, 2]
    assert len({draw.sample for draw in order[:3]}) == 1
    assert [d.sample for d in repeated(1000, 1, 5, 3)] == [d.sample for d in repeated(1000, 0, 5, 3)]
    for rank in range(4):
        sampler = RepeatAugSampler(range(1000), 4, rank)
        sampler.set_epoch(5)
        assert list(sampler) == [draw.sample for draw in repeated(1000, 1, 5, 3)][rank::4]


@pytest.mark.parametrize(
    ("samples", "batch", "device", "world", "why"),
    [
        (
            30,
            64,
            64,
            1,
            r"30 images an epoch, fewer than the 64 of one update; give --global-batch 16 or less",
        ),
        (300, 64, 64, 3, "64 cannot be shared by 3 ranks"),
        (300, 6, 64, 2, "no even micro-batch"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    samples: int, batch: int, device: int, world: int, why: str
) -> None:
    with pytest.raises(AttnbenchError, match=why):
        make_plan(samples, 1, batch, device, world, 0, mixes=True)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with checkpoint.alone(tmp_path):
        held = checkpoint.alone(tmp_path, patience_s=0.0)
        with pytest.raises(AttnbenchError, match=rf"process {os.getpid()} trains in .* already"), held:
            pass
    with checkpoint.alone(tmp_path, patience_s=0.0):
        pass
