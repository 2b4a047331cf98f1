"""fsm.js in Chromium behind nginx: as the documentation has it, and as people have it first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from ..clients import LOOPBACK
from ..live.nginx import DOCUMENTED, WITH_HOST, Nginx, nginx_or_skip
from ..live.serving import Site

pytestmark = pytest.mark.browser

CONNECT = """async () => {
    const { connect } = await import("/fsm/static/fsm.js");
    window.flow = connect("traffic");
    window.opened = [];
    flow.on("open", ({ transport }) => opened.push(transport));
    return (await flow.send("next", null, { timeout: 20000 })).state;
}"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The app, by gunicorn."""
    nginx_or_skip()
    with Site("loop") as site:
        yield site


@pytest.mark.parametrize(
    ("config", "transport"),
    [(DOCUMENTED, "websocket"), (WITH_HOST, "sse")],
    ids=["documented", "first, with the host"],
)
def test_a_page(chromium: Browser, site: Site, config: str, transport: str) -> None:
    """A page finds the way that is open, moves the flow, and is told what another page does."""
    with Nginx(config, site.port) as nginx, chromium.new_context() as context:
        page, other = context.new_page(), context.new_page()
        for each in (page, other):
            each.goto(f"http://{LOOPBACK}:{nginx.port}/")
        assert page.evaluate(CONNECT) == "yellow"
        assert page.evaluate("() => opened.at(-1)") == transport
        page.wait_for_function("() => flow.state === 'yellow'")
        assert other.evaluate(CONNECT) == "red"
        page.wait_for_function("() => flow.state === 'red'")
