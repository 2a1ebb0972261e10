"""The report in headless Chromium: it draws, sorts and filters, by mouse and by keyboard, and axe is content.

Where there is no Chromium (Debian: chromium, chromium-driver), all of this skips and says so.
"""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest

from attnbench import store
from attnbench.tables import speed

pytest.importorskip("selenium.webdriver")
pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from attnbench.report.page import page

ROOT = Path(__file__).parents[2]
pytestmark = chromium.needed
WIDTHS = {"phone": 390, "laptop": 1366}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that has the report of the shipped results open, its charts drawn, without a network."""
    patch = pytest.MonkeyPatch()
    patch.setattr(speed, "speed_refusal", lambda *_, **__: "")
    path = tmp_path_factory.mktemp("report") / "report.html"
    records = store.read(ROOT / "results" / "records", pytest.fail)
    path.write_text(page(records, layout="swin_t"), encoding="utf-8")
    patch.undo()
    with chromium.opened(path) as driver:
        wait(driver, "return document.documentElement.dataset.charts")
        yield driver


def wait(driver: Any, script: str) -> Any:
    """What a script gives as soon as it gives something."""
    for _ in range(4000):
        if found := driver.execute_script(script):
            return found
        time.sleep(0.1)
    pytest.fail(f"never true in 400 s: {script}")


def column(browser: Any, heading: str) -> list[str]:
    """Sort keys of the shown rows in the column under a heading, top down."""
    script = """
      const table = document.getElementById("grid");
      const i = [...table.tHead.rows[1].cells].findIndex((c) => c.textContent.includes(arguments[0]));
      return [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[i].dataset.sort);
    """
    found: list[str] = browser.execute_script(script, heading)
    return found


def test_charts_are_drawn_and_the_console_is_silent(browser: Any) -> None:
    assert wait(browser, "return document.documentElement.dataset.charts") == "drawn"
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(c => c.querySelectorAll('svg path').length)"
    )
    assert len(drawn) >= 4
    assert all(paths > 5 for paths in drawn)
    assert browser.get_log("browser") == []


def test_nothing_was_asked_of_a_network(browser: Any) -> None:
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in asked if not name.startswith("data:")] == []


def test_headings_sort_and_say_so(browser: Any) -> None:
    button = next(b for b in browser.find_elements(By.CSS_SELECTOR, "#grid thead button") if "MACs" in b.text)
    button.click()
    up = [float(value) for value in column(browser, "MACs") if value]
    assert up == sorted(up)
    header = button.find_element(By.XPATH, "..")
    assert header.get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    down = [float(value) for value in column(browser, "MACs") if value]
    assert down == sorted(down, reverse=True)
    assert header.get_attribute("aria-sort") == "descending"
    assert len(browser.find_elements(By.CSS_SELECTOR, "#grid th[aria-sort=descending]")) == 1


def test_empty_cells_come_last_either_way(browser: Any) -> None:
    button = next(
        b for b in browser.find_elements(By.CSS_SELECTOR, "#grid thead button") if "top-1" in b.text
    )
    for _ in range(2):
        button.click()
        values = column(browser, "top-1")
        filled = [value for value in values if value]
        assert filled
        assert values == [*filled, *([""] * (len(values) - len(filled)))]


def test_words_and_groups_filter(browser: Any) -> None:
    box, group = browser.find_element(By.ID, "filter"), browser.find_element(By.ID, "group")
    rows = len(column(browser, "MACs"))
    box.send_keys("window")
    assert 1 < len(column(browser, "MACs")) < rows
    assert browser.find_element(By.ID, "count").text.endswith(f"of {rows} rows")
    box.send_keys(" nothing like it")
    assert column(browser, "MACs") == []
    box.clear()
    box.send_keys(Keys.SPACE, Keys.BACKSPACE)
    assert len(column(browser, "MACs")) == rows
    group.find_element(By.CSS_SELECTOR, "option[value=query]").click()
    assert 0 < len(column(browser, "MACs")) < rows
    group.find_element(By.CSS_SELECTOR, "option[value='']").click()


def test_the_keyboard_reaches_every_number_and_its_source(browser: Any) -> None:
    browser.execute_script("document.querySelector('#grid td[tabindex]').focus()")
    focused = browser.switch_to.active_element
    assert len(browser.find_elements(By.CSS_SELECTOR, "#grid td[tabindex]")) == 1, "one stop of the tab key"
    focused.send_keys(Keys.ARROW_RIGHT)
    focused = browser.switch_to.active_element
    tip = browser.find_element(By.ID, "tip")
    assert tip.is_displayed()
    assert "record " in tip.text
    focused.send_keys(Keys.ENTER)
    target = browser.find_element(By.CSS_SELECTOR, "tr:target")
    assert target.is_displayed()
    assert "conditions" in target.text or "every machine" in target.text


def test_all_columns_on_request(browser: Any) -> None:
    hidden = "return [...document.querySelectorAll('#grid .extra')].filter(c => c.offsetParent).length"
    assert browser.execute_script(hidden) == 0
    box = browser.find_element(By.ID, "all-columns")
    box.click()
    assert browser.execute_script(hidden) > 50
    widths = """
      const span = (row) => [...row.cells].filter((c) => c.offsetParent).reduce((n, c) => n + c.colSpan, 0);
      return [...document.getElementById("grid").tHead.rows].map(span);
    """
    top, bottom = browser.execute_script(widths)
    assert top == bottom
    box.click()


@pytest.mark.parametrize(("scheme", "rules"), [("light", "{}"), ("dark", "{runOnly: ['color-contrast']}")])
def test_axe_finds_nothing_serious(browser: Any, scheme: str, rules: str) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    emulate(browser, scheme)
    browser.execute_script((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    alike = "{exclude: [['#grid tbody tr:nth-child(n+4)'], ['#provenance details:nth-of-type(n+3)']]}"
    found = browser.execute_async_script(f"axe.run({alike}, {rules}).then(arguments[arguments.length - 1])")
    emulate(browser, "light")
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in serious] == []
    assert found["passes"]


def emulate(browser: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def test_dark_is_dark_and_charts_follow(browser: Any) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        emulate(browser, scheme)
        seen[scheme] = browser.execute_script(
            "return [getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('.chart text')).fill]"
        )
    emulate(browser, "light")
    assert seen["light"][0] == "rgb(255, 255, 255)"
    assert seen["dark"][0] != seen["light"][0]
    assert seen["dark"][1] != seen["light"][1]


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_no_page_scrolls_sideways(browser: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_prints(browser: Any) -> None:
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    pdf = base64.b64decode(printed)
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type/Page") >= 2
