"""Energy from counters that are known, and what is said where there is none."""

from pathlib import Path

import pytest
import torch

from attnbench import AttnbenchError
from attnbench.metrics import energy

CPU = torch.device("cpu")


def zone(folder: Path, name: str, microjoules: int, top: int = 1_000_000) -> Path:
    path = folder / name
    path.mkdir()
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{top}\n")
    return path


def test_packages_are_added_and_a_counter_that_starts_again_is_seen(tmp_path, monkeypatch) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 999_000), zone(tmp_path, "intel-rapl:1", 0)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a core's share of package 0, which is counted already
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    joules = energy._counter(CPU)
    assert joules() == 0
    (first / "energy_uj").write_text("1000\n")  # 999,000 to the top and over it: 2,001 microjoules
    (second / "energy_uj").write_text("300000\n")
    assert joules() == pytest.approx((2_001 + 300_000) / 1e6)
    (second / "energy_uj").write_text("400000\n")
    assert joules() == pytest.approx((2_001 + 400_000) / 1e6)


def test_a_machine_without_a_counter_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    with pytest.raises(AttnbenchError, match=r"cannot be read here: .* has no intel-rapl zone"):
        energy._counter(CPU)
