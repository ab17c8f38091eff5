"""A browser that opens pages from a file, one for all tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from opened_pages import Browser
from selenium import webdriver

MISSING = "no Chromium, so that no page is opened: apt-get install chromium chromium-driver"


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        pytest.skip(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=programs[1]))
    made.set_script_timeout(60)
    yield made
    made.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome, tmp_path: Path) -> Browser:
    return Browser(driver, tmp_path)
