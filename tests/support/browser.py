"""Debian's chromium, driven by Playwright; elsewhere these tests are skipped, loudly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium here, and CI must not skip the dashboard's tests")
        pytest.skip("NOT TESTED: the dashboard needs chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()
