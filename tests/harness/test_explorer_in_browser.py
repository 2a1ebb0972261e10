"""The token explorer in headless Chromium: a click on a token, or an arrow key, shows what that token reads.

Where there is no Chromium (Debian: chromium, chromium-driver), all of this skips and says so.
"""

from collections.abc import Iterator
from typing import Any

import chromium
import numpy as np
import pytest

from attnbench.harness.visualize import explorer
from attnbench.harness.visualize.view import Asked, View, every_token

pytest.importorskip("selenium.webdriver")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = chromium.needed

SIDE = 7
PIXELS = """
const canvas = arguments[0], side = arguments[1], pen = canvas.getContext('2d'), found = [];
const w = canvas.width / side, h = canvas.height / side;
for (let j = 0; j < side * side; j++) {
  const [r, g, b] = pen.getImageData((j % side + 0.5) * w, (Math.floor(j / side) + 0.5) * h, 1, 1).data;
  found.push([r, g, b]);
}
return found;
"""
"""The colours in the middle of each token."""


@pytest.fixture(scope="module")
def view() -> View:
    """All tokens of a map of 7 × 7, of which BRA lets each read 2 regions of 9."""
    return every_token(Asked("bra", "swin_pico", stage=1, options={"num_regions": 3, "topk": 2}))


@pytest.fixture(scope="module")
def browser(view: View, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("explorer") / "tokens.html"
    path.write_text(explorer.page(view), encoding="utf-8")
    with chromium.opened(path) as driver:
        driver.implicitly_wait(20)
        driver.find_element(By.XPATH, "//*[@data-told and contains(., 'reads')]")  # the image is drawn
        yield driver


def coloured(browser: Any, name: str) -> np.ndarray:
    """(N,) bool: tokens of a canvas that are not grey."""
    canvas = browser.find_element(By.CSS_SELECTOR, f'canvas[data-map="{name}"]')
    pixels = np.array(browser.execute_script(PIXELS, canvas, SIDE))
    return np.ptp(pixels, axis=1) > 8


def click(browser: Any, column: int, row: int) -> None:
    canvas = browser.find_element(By.CSS_SELECTOR, 'canvas[data-map="reads"]')
    width, height = canvas.size["width"], canvas.size["height"]
    x = round((column + 0.5) / SIDE * width - width / 2)  # selenium counts from the middle
    y = round((row + 0.5) / SIDE * height - height / 2)
    ActionChains(browser).move_to_element_with_offset(canvas, x, y).click().perform()


def told(browser: Any) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, "[data-told]").text)


@pytest.mark.parametrize("place", [(1, 1), (5, 2), (3, 6)])
def test_a_click_shows_what_that_token_reads(browser: Any, view: View, place: tuple[int, int]) -> None:
    column, row = place
    click(browser, column, row)
    weights = view.reads.weights[row * SIDE + column].flatten().numpy()
    assert np.array_equal(coloured(browser, "reads"), weights > 0)
    regions = view.routed[row * SIDE + column].any(0).flatten().numpy()
    assert np.array_equal(coloured(browser, "routed"), regions)
    assert told(browser) == f"Token {column},{row} reads {int((weights > 0).sum())} of 49 tokens."


def test_two_tokens_give_two_pictures(browser: Any) -> None:
    click(browser, 0, 0)
    first = coloured(browser, "reads")
    click(browser, 6, 6)
    assert not np.array_equal(first, coloured(browser, "reads"))


def test_arrow_keys_move_the_token_and_stop_at_the_border(browser: Any) -> None:
    click(browser, 5, 0)
    box = browser.find_element(By.CSS_SELECTOR, "[tabindex]")
    box.send_keys(Keys.ARROW_RIGHT)
    assert told(browser).startswith("Token 6,0 ")
    box.send_keys(Keys.ARROW_UP)
    assert told(browser).startswith("Token 6,0 ")
    box.send_keys(Keys.ARROW_DOWN)
    assert told(browser).startswith("Token 6,1 ")


def test_the_page_logs_no_error_and_fetches_nothing(browser: Any) -> None:
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
