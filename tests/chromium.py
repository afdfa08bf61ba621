"""Debian's Chromium for the tests of pages: apt-get install chromium."""

from playwright.sync_api import Browser, Playwright

FLAGS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def launch(playwright: Playwright) -> Browser:
    """Start it without a window."""
    return playwright.chromium.launch(executable_path="/usr/bin/chromium", headless=True, args=list(FLAGS))
