"""A real headless Chromium, for the tests of the report and the script of the pictures."""

from __future__ import annotations

import base64
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Nothing is reached for: no updates, no metrics, no first-run pages.
_FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --force-device-scale-factor=1"""


def missing() -> str | None:
    """What is not there that a browser needs, in words; None where all is."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (make setup)"
    return None if _chromium() and shutil.which("chromedriver") else "there is no Chromium with its driver (make browser)"


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A selenium driver that logs the console and every request, with a profile of its own in `profile`."""
    from selenium.common.exceptions import WebDriverException

    try:
        driver = _started(profile / "first")
    except WebDriverException:  # its own patience is a minute, and that may be too little beside other tests
        driver = _started(profile / "second")
    try:
        yield driver
    finally:
        driver.quit()


def _started(profile: Path) -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _chromium()
    for flag in [*_FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def resize(driver: Any, width: int, height: int, mobile: bool = False) -> None:
    """Give the page's window this size in CSS pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def emulate(driver: Any, media: str = "", **features: str) -> None:
    """Have the page believe that it is printed (``print``), or what its reader prefers (prefers_color_scheme="dark")."""
    told = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": told})


def picture(driver: Any, path: Path, whole: bool = False) -> Path:
    """A PNG of the window, or of the whole page."""
    shot = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole} | _clip(driver, whole)
    )
    path.write_bytes(base64.b64decode(shot["data"]))
    return path


def _clip(driver: Any, whole: bool) -> dict[str, Any]:
    if not whole:
        return {}
    size = driver.execute_script("return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    return {"clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}}
