"""Make `docs/checkout.png`, the picture in the README: `python docs/screenshots.py`.

Needs Playwright and a Chromium: FSM_CHROMIUM names it, by default /usr/bin/chromium.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from werkzeug.serving import make_server

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from example_app import create_app  # noqa: E402


def walk(page: Page, home: str) -> None:
    """Walk through the checkout to a page that shows branch, progress and order summary."""

    def go_on(to: str) -> None:
        page.get_by_role("button", name="Continue").click()
        page.wait_for_url(f"**/{to}")

    page.goto(f"{home}/checkout/")
    page.get_by_label("Number of notebooks").fill("2")
    page.get_by_label("Number of bottles of ink").fill("1")
    go_on("delivery")
    page.get_by_label("By parcel").check()
    page.get_by_label("This is a gift").check()
    go_on("address")
    page.get_by_label("Name").fill("Ada Lovelace")
    page.get_by_label("Street and number").fill("Marmorgasse 4")
    page.get_by_label("Postcode").fill("1090")
    page.get_by_label("Town").fill("Vienna")
    go_on("wrapping")
    page.get_by_label("Night blue").check()
    page.get_by_label("Message on the card").fill("For the long evenings.\nYours, Charles")
    page.locator("h1").click()  # no focus ring and no caret in the picture


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, create_app(), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("FSM_CHROMIUM", "/usr/bin/chromium"),
            args=["--headless", "--no-sandbox", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 760}, color_scheme="light")
        walk(page, f"http://127.0.0.1:{server.server_port}")
        page.screenshot(path=HERE / "checkout.png")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
