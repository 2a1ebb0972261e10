"""What a probe asks can be answered from its source alone, and no picture is in two splits."""

import hashlib

import pytest
import torch

from attnbench import datasets
from attnbench.errors import AttnbenchError
from attnbench.harness.data import flood, texture
from attnbench.harness.probes.probe import CELL, NO_SOURCE, NOT_ASKED, SPLITS, Draw, Probe, split_of

PROBES = datasets.names("probe")


def make(name: str, side: int = 8) -> Probe:
    return datasets.get(name).load()(side)


def draw(probe: Probe, split: str = "train", seed: int = 0, count: int = 24, side: int = 0) -> Draw:
    return probe.sample(torch.Generator().manual_seed(seed), count, split, side)


def cells(images: torch.Tensor) -> torch.Tensor:
    """(B, C, ...) images to (B, N, C, 4, 4)."""
    patches = images.unfold(2, CELL, CELL).unfold(3, CELL, CELL)
    return patches.flatten(2, 3).transpose(1, 2)


@pytest.mark.parametrize("name", PROBES)
def test_shapes_are_those_declared(name: str) -> None:
    probe, facts = make(name), datasets.get(name).facts
    for side in (8, 12):
        images, targets, source = draw(probe, side=side)
        assert images.shape == (24, facts.channels, CELL * side, CELL * side)
        assert targets.shape == source.shape == (24, side**2)
        asked = targets[targets != NOT_ASKED]
        assert len(asked)
        assert int(asked.min()) >= 0
        assert int(asked.max()) < facts.num_classes
        assert facts.num_classes == probe.num_classes
    assert probe.channels == facts.channels


@pytest.mark.parametrize("name", PROBES)
def test_a_seed_makes_the_same_pictures_again(name: str) -> None:
    first, again, other = (draw(make(name), seed=seed).images for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


PUBLISHED = {
    "beacon": "5f2bd1c7c7806eb8",
    "flood": "a192ba5127f05829",
    "majority": "7db15250bacbe8da",
    "offset": "8de48e37239c2707",
    "retrieval_dense": "00c3b8b9e4a171c3",
    "retrieval_sparse": "379c86f92b897ddb",
    "texture": "e1f1d6f8724121a8",
}
"""Digests of what the published records were trained and tested on. Code that draws something else makes
another probe: its records are to be measured anew."""


@pytest.mark.parametrize("name", PROBES)
def test_the_pictures_are_those_that_the_published_records_were_trained_on(name: str) -> None:
    made = hashlib.sha256()
    for split in SPLITS:
        for side in (8, 12, 16):
            for part in draw(make(name), split, count=64, side=side):
                made.update(part.contiguous().numpy().tobytes())
    assert made.hexdigest()[:16] == PUBLISHED[name]


@pytest.mark.parametrize("name", PROBES)
def test_a_map_of_a_pyramids_first_stage_can_be_drawn(name: str) -> None:
    assert draw(make(name, side=56), count=2).images.shape[-1] == 56 * CELL


def test_a_flood_wider_than_a_row_of_bits_is_refused() -> None:
    with pytest.raises(AttnbenchError, match="at most 62 × 62 cells, got 84 × 84"):
        draw(make("flood", side=56), side=84)


@pytest.mark.parametrize("name", PROBES)
def test_splits_cannot_overlap(name: str) -> None:
    probe = make(name)
    seen: dict[str, set[bytes]] = {}
    for split in SPLITS:
        images = draw(probe, split, count=64).images[:, :3].contiguous()
        assert (split_of(images) == SPLITS.index(split)).all()
        seen[split] = {picture.numpy().tobytes() for picture in images}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_splits_are_of_the_stated_size() -> None:
    probe = make("retrieval_sparse")
    images = torch.cat([probe.draw(torch.Generator().manual_seed(s), 500, 8).images for s in range(4)])
    shares = split_of(images).bincount(minlength=3) / len(images)
    assert shares.tolist() == pytest.approx([14 / 16, 1 / 16, 1 / 16], abs=0.02)


@pytest.mark.parametrize("name", [name for name in PROBES if name.startswith("retrieval")])
def test_the_source_of_a_question_has_its_glyph_and_the_answers_colour(name: str) -> None:
    probe = make(name)
    images, targets, source = draw(probe)
    cell = cells(images)
    picture, at = (targets != NOT_ASKED).nonzero(as_tuple=True)
    asks, holds = cell[picture, at], cell[picture, source[picture, at]]
    assert torch.equal(asks[..., :3, :3], holds[..., :3, :3])
    assert not asks[..., 3, :].any()  # a grey frame
    bits = (holds[:, :, 3, 3] > 0).long()
    assert torch.equal(bits @ torch.tensor([1, 2, 4]), targets[picture, at])
    assert len(picture) == 24 * round(probe.share * 64)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["beacon", "offset"])
def test_the_source_has_the_answers_colour(name: str) -> None:
    images, targets, source = draw(make(name))
    cell = cells(images[:, :3])
    picture, at = (targets != NOT_ASKED).nonzero(as_tuple=True)
    bits = (cell[picture, source[picture, at]][:, :, 3, 3] > 0).long()
    assert torch.equal(bits @ torch.tensor([1, 2, 4]), targets[picture, at])


def test_majority_is_the_most_frequent_colour_nearly_always() -> None:
    images, targets, _ = draw(make("majority"), count=200)
    bits = (cells(images)[..., 3, 3] > 0).long() @ torch.tensor([1, 2, 4])
    counts = torch.nn.functional.one_hot(bits, 8).sum(1)
    assert (counts.argmax(1) == targets[:, 0]).float().mean() > 0.97


def test_texture_is_told_by_the_cell_itself() -> None:
    images, targets, source = draw(make("texture"))
    glyphs = (cells(images)[:, :, 0, :3, :3].flatten(2) > 0).long()
    codes = torch.tensor([[code >> bit & 1 for bit in range(9)] for code in _texture_codes()])
    distance = (glyphs[:, :, None] != codes).sum(-1)
    assert torch.equal(distance.argmin(-1), targets)
    assert torch.equal(source, torch.arange(64).expand(24, -1))


def _texture_codes() -> list[int]:
    return [*texture.PATTERNS, *(511 - code for code in texture.PATTERNS)]


def test_flood_agrees_with_a_search_cell_by_cell() -> None:
    images, targets, source = draw(make("flood"), count=8)
    cell = cells(images[:, :3])
    free, seeds = cell[:, :, 0, 0, 0] > 0, cell[:, :, 0, 3, 3] > 0
    for i in range(8):
        reached, front = set(), [int(seeds[i].nonzero())]
        while front:
            at = front.pop()
            if at in reached:
                continue
            reached.add(at)
            row, column = divmod(at, 8)
            steps = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            inside = (8 * r + c for r, c in steps if 0 <= r < 8 and 0 <= c < 8)
            front += [n for n in inside if bool(free[i, n])]
        asked = [n for n in range(64) if targets[i, n] != NOT_ASKED]
        assert asked == [n for n in range(64) if bool(free[i, n]) and not bool(seeds[i, n])]
        assert all(int(targets[i, n]) == (n in reached) for n in asked)
    assert (source == NO_SOURCE).all()


def test_floor_of_flood_is_what_places_tell() -> None:
    """The best answer by place alone, estimated from one draw and tested on another."""
    probe = flood.Flood(8)
    one, other = (draw(probe, seed=seed, count=1500).targets for seed in (1, 2))
    frequency = _symmetric((one == 1).sum(0)) / _symmetric((one >= 0).sum(0))
    base = float((one == 1).sum() / (one >= 0).sum())
    guess = (frequency > base).long().expand_as(other)
    recalls = [float((guess == other)[other == kind].float().mean()) for kind in (0, 1)]
    assert 100 * sum(recalls) / 2 == pytest.approx(probe.floor, abs=1.0)


def _symmetric(counts: torch.Tensor) -> torch.Tensor:
    """Counts of 8 × 8 places, summed over the turns and reflections of the square."""
    table = counts.view(8, 8) + counts.view(8, 8).T
    table = table + table.flip(0)
    return (table + table.flip(1)).flatten()
