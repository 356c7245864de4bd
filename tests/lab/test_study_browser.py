# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: keyboard, mouse, resume, download; its file scored and counted by hand."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from study_stand_ins import some_candidates, some_private

from bido_ext.lab.study import build_study, read_answers, score, write_page

selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="chromium and chromedriver are not installed"
)
ITEMS = 6


class Page:
    """The page as a participant handles it."""

    def __init__(self, browser: Chrome, path: Path, downloads: Path) -> None:
        self.browser, self.path, self.downloads = browser, path, downloads

    def open(self) -> None:
        self.browser.get(self.path.as_uri())

    def find(self, name: str):
        return self.browser.find_element(By.ID, name)

    def press(self, key: str) -> None:
        ActionChains(self.browser).send_keys(key).perform()

    def pictures(self):
        return self.find("choices").find_elements(By.TAG_NAME, "button")

    def wait_for(self, position: int) -> None:
        WebDriverWait(self.browser, 5).until(
            lambda _: self.find("count").text == f"{position} of {ITEMS}"
        )

    def wait_for_end(self) -> None:
        WebDriverWait(self.browser, 5).until(lambda _: self.find("done").is_displayed())

    def saved_file(self) -> Path:
        self.find("save").click()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if files := list(self.downloads.glob("answers-*.json")):
                return files[0]
            time.sleep(0.05)
        raise AssertionError(f"nothing was downloaded: {list(self.downloads.iterdir())}")


@pytest.fixture
def study_and_page(tmp_path) -> Iterator[tuple]:
    study, pictures = build_study(some_candidates(classes=ITEMS), some_private(ITEMS), seed=5)
    path = write_page(study, pictures, tmp_path / "study.html")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    options = ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1000,800",
    ):
        options.add_argument(argument)
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # chromium's sandbox refuses root
        options.add_argument("--no-sandbox")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options=options, service=ChromeService(DRIVER))
    yield study, Page(browser, path, downloads)
    browser.quit()


def test_keyboard_and_mouse_make_the_file_that_is_scored(study_and_page):
    study, page = study_and_page
    page.open()
    page.press(Keys.ENTER)  # Start has the focus
    page.wait_for(1)
    page.press("2")
    page.wait_for(2)
    page.pictures()[2].click()
    page.wait_for(3)
    page.press("0")
    page.wait_for(4)
    page.press(Keys.ARROW_LEFT)  # the third again, and another opinion
    page.wait_for(3)
    assert page.find("none").get_attribute("aria-pressed") == "true"
    page.press("1")
    page.wait_for(4)
    page.press("4")  # three pictures: no such key
    page.press("3")
    page.wait_for(5)
    page.find("none").click()
    page.wait_for(6)
    assert page.find("bar").get_attribute("value") == "5"
    page.press("3")
    page.wait_for_end()
    answers = read_answers(page.saved_file())
    assert answers.study == study
    choices = (2, 3, 1, 3, 0, 3)
    by_hand = dict.fromkeys((*study.defences, None), 0)
    for item, choice in zip(study.items, choices, strict=True):
        by_hand[study.defences[item.order[choice - 1]] if choice else None] += 1
    result = score({page.path: answers}, study=study)
    assert {count.defence: count.selected for count in result.counts} == by_hand
    assert (result.judgements, result.unanswered) == (ITEMS, 0)
    complaints = [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not complaints


def test_a_closed_page_resumes_where_it_was_left(study_and_page):
    study, page = study_and_page
    page.open()
    page.find("start").click()
    page.wait_for(1)
    page.press("1")
    page.wait_for(2)
    page.press("2")
    page.wait_for(3)
    page.browser.get("about:blank")
    page.open()
    assert page.find("start").text == f"Continue (2 of {ITEMS} done)"
    page.find("start").click()
    page.wait_for(3)
    page.press(Keys.ARROW_RIGHT)  # nothing chosen here: there is no way past it
    page.find("finish").click()
    page.wait_for_end()
    answers = read_answers(page.saved_file())
    expected = {
        item.label: study.defences[item.order[place]]
        for item, place in zip(study.items, (0, 1), strict=False)
    }
    assert answers.choices == expected


def test_no_request_leaves_the_page(study_and_page):
    _, page = study_and_page
    page.open()
    page.find("start").click()
    page.wait_for(1)
    sent = [
        entry["message"]
        for entry in page.browser.get_log("performance")
        if "Network.requestWillBeSent" in entry["message"]
    ]
    assert not [message for message in sent if '"url":"http' in message]


@pytest.mark.parametrize("size", [(390, 844), (360, 640), (844, 390), (1280, 720)])
def test_one_item_fits_the_screen_and_a_finger(study_and_page, size):
    _, page = study_and_page
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 1000},
    )
    page.open()
    page.find("start").click()
    page.wait_for(1)
    overflow = page.browser.execute_script(
        "const e = document.documentElement; return [e.scrollWidth - e.clientWidth, e.scrollHeight - e.clientHeight]"
    )
    assert overflow == [0, 0]
    for button in (*page.pictures(), page.find("none"), page.find("back")):
        assert min(button.size["width"], button.size["height"]) >= 44
        assert button.get_attribute("aria-label") or button.text
