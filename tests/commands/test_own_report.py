"""``attnbench report FILE.py``: one's own row among the shipped, the probe and the tokens, in one page."""

import functools
import re
from pathlib import Path

import pytest

from attnbench import store
from attnbench.commands import _own
from attnbench.harness.conformance import command as conformance
from attnbench.harness.probes import campaign
from attnbench.harness.run import own
from attnbench.skeleton import write


@pytest.mark.slow
@pytest.mark.usefixtures("isolated_registry")
def test_a_new_file_becomes_a_row_a_probe_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With less effort than a user's: one check, one count, two steps of the probe, one direction."""
    whole = conformance.conformance
    monkeypatch.setattr(
        conformance, "conformance", lambda names, every, only, *rest: whole(names, every, ("builds",), *rest)
    )
    monkeypatch.setattr(own, "MEASURED", ("params",))
    monkeypatch.setattr(own, "measure", functools.partial(own.measure, in_process=True))
    monkeypatch.setattr(campaign, "Request", functools.partial(campaign.Request, steps=2, rates=(0.003,)))
    monkeypatch.setattr(_own, "DIRECTIONS", 1)
    path, out, page = tmp_path / "my_attention.py", tmp_path / "out", tmp_path / "report.html"
    write(path)
    _own.report(path, out, page, "cpu")
    text = page.read_text(encoding="utf-8")
    assert 'id="row-my_attention"' in text
    assert 'id="row-bra"' in text, "the shipped records are in the table too"
    assert ">My attention<" in text[text.index('id="probes"') :]
    assert 'id="tokens-my_attention"' in text
    assert text.count('class="attnbench-explorer"') == 1
    measured = {(m.cell.metric, m.status) for m in store.read(out / "records", pytest.fail)}
    assert measured == {("params", "ok"), ("probe", "ok")}
    said = capsys.readouterr().out
    assert "About two minutes" in said
    assert [line[:6] for line in said.splitlines() if " of 4, " in line] == [f"{n} of 4" for n in range(1, 5)]
    assert re.search(r"^Bi-level routing .* 82\.7 +44\.8$", said, re.M), "the published row to compare with"
    assert re.search(r"^My attention † +28\.27 ", said, re.M)
    assert "Retrieval, sparse: My attention" in said
    for anchor in re.findall(rf"{re.escape(page.as_uri())}#(\S+)", said):
        assert f'id="{anchor}"' in text
    assert said.count(page.as_uri()) == 3
