"""fsm.js in Chromium, against the stand-in of the live tests: what only a page has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from ..clients import LOOPBACK
from ..live.fake_server import FakeServer
from ..live.serving import Site
from ..proxy import Proxy

pytestmark = pytest.mark.browser

STATE = {"state": "red", "events": ["next"], "status": 200, "data": None, "rev": 4, "id": "e-4"}
CONNECTED = "() => window.flow?.connected && flow.state === 'red'"
# Whoever comes back at once was called, since the dice would have it wait.
LONG = "() => { Math.random = () => 1; flow.on('close', (told) => window.told = told); }"
LOOK = """(value) => {
    Object.defineProperty(document, 'visibilityState', { value, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
}"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Site]:
    """The app of the live tests, on the loop."""
    with Site("loop") as site:
        yield site


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """A server that does what the test says."""
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture
def page(chromium: Browser, fake_server: FakeServer) -> Iterator[Page]:
    """A page with a flow, before its websocket is let in."""
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(fake_server.url)
        yield page


def wait(page: Page, *conditions: str) -> None:
    """Wait until a page fulfils each of these."""
    for condition in conditions:
        page.wait_for_function(condition)


def test_page(page: Page, fake_server: FakeServer) -> None:
    """A page finds its server by where the script came from, and sends and is answered."""
    socket = fake_server.websocket()
    assert (socket.path, socket.query) == ("/fsm/traffic/ws", {"group_id": ["ops"]})
    socket.accept().send(STATE)
    wait(page, CONNECTED)
    page.evaluate("() => void flow.send('next').then((frame) => window.answer = frame)")
    sent = socket.receive()
    socket.send({"status": 200, "data": "pong", "ref": sent["ref"]})
    wait(page, "() => window.answer?.data === 'pong'")


def test_page_stream(page: Page, fake_server: FakeServer) -> None:
    """Where no websocket is let through, a page reads a stream, and comes back to it."""
    fake_server.why = (426, {})
    for _ in range(2):
        fake_server.websocket().answer(403, {})
    stream = fake_server.stream().accept()
    stream.send("state", STATE)
    wait(page, CONNECTED)
    page.evaluate("() => void flow.send('next').then((frame) => window.answer = frame)")
    fake_server.request().answer(200, {"status": 200, "data": "pong"})
    wait(page, "() => window.answer?.data === 'pong'")
    stream.cut()
    fake_server.websocket().answer(403, {})
    assert fake_server.stream().since == "e-4"


def test_page_stream_refused(page: Page, fake_server: FakeServer) -> None:
    """A stream that is refused for good ends the flow of a page, with the server's reason."""
    page.evaluate("() => flow.on('error', (error) => window.fault = error)")
    fake_server.why = (426, {})
    for _ in range(2):
        fake_server.websocket().answer(403, {})
    for _ in range(2):
        why = {"status": 403, "reason": "group", "detail": "No group."}
        fake_server.stream().answer(403, why)
    wait(page, "() => window.fault?.code === 4403 && window.fault.message === 'No group.'")


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_page_of_an_allowed_origin(
    chromium: Browser, fake_server: FakeServer, transport: str
) -> None:
    """A page of another origin that the server allows has it all, the script included."""
    connect = f"""async (server) => {{
        const {{ connect }} = await import(`${{server}}/fsm/static/fsm.js`);
        window.flow = connect("lab", {{ origin: server, transport: {transport!r} }});
        return (await flow.send("start", null, {{ timeout: 5000 }})).state;
    }}"""
    with (
        Site("loop", FSM_ALLOWED_ORIGINS=[fake_server.url]) as site,
        Site("loop") as closed,
        chromium.new_context() as context,
    ):
        page = context.new_page()
        page.goto(fake_server.url)
        assert page.evaluate(connect, site.origin) == "busy"
        wait(page, "() => flow.state === 'busy'")
        page.reload()
        assert "import" in page.evaluate(
            f"(server) => ({connect})(server).catch((error) => String(error))", closed.origin
        )


@pytest.mark.parametrize("call", ["visibilitychange", "online"])
def test_called_back(page: Page, fake_server: FakeServer, call: str) -> None:
    """A page that is seen again, or whose network is back, doesn't wait until its time is over."""
    socket = fake_server.websocket().accept()
    socket.send(STATE)
    wait(page, CONNECTED)
    page.evaluate(LONG)
    socket.close(1013)
    wait(page, "() => window.told?.code === 1013")
    target = "document" if call == "visibilitychange" else "window"
    page.evaluate(f"() => {target}.dispatchEvent(new Event('{call}'))")
    assert fake_server.websocket().since == "e-4"


def test_network_back(page: Page, fake_server: FakeServer) -> None:
    """A websocket that was open before the network went is opened anew when it is back."""
    fake_server.websocket().accept().send(STATE)
    wait(page, CONNECTED)
    page.context.set_offline(True)
    page.context.set_offline(False)
    assert fake_server.websocket().since == "e-4"


def test_network_back_while_nobody_looks(page: Page, fake_server: FakeServer) -> None:
    """What was open before the network went is not kept because the page was hidden meanwhile."""
    fake_server.websocket().accept().send(STATE)
    wait(page, CONNECTED)
    page.evaluate(LOOK, "hidden")
    page.context.set_offline(True)
    page.context.set_offline(False)
    page.evaluate(LOOK, "visible")
    assert fake_server.websocket().since == "e-4"


@pytest.mark.parametrize("transport", ["websocket", "sse"])
@pytest.mark.parametrize("sign", ["unanswered", "seen again", "back in history"])
def test_dead_but_open(chromium: Browser, lab: Site, transport: str, sign: str) -> None:
    """A page leaves a connection that swallows everything, and shows what it has missed."""
    connect = f"""async () => {{
        const {{ connect }} = await import("/fsm/static/fsm.js");
        window.flow = connect("traffic", {{ transport: {transport!r}, reload: false }});
    }}"""
    with Proxy(lab.port) as proxy, chromium.new_context() as context:
        page = context.new_page()
        page.clock.install()
        page.goto(f"http://{LOOPBACK}:{proxy.port}/")
        page.evaluate(connect)
        wait(page, "() => flow.state === 'green'")
        proxy.blackhole()
        (cookie,) = context.cookies()
        visitor = lab.browser(cookies={cookie["name"]: cookie["value"]})
        assert visitor.event("traffic", "next").status == 200
        if sign == "unanswered":
            page.evaluate("() => { flow.send('ping', null, { timeout: 50 }) }")
            page.clock.run_for(60)
        elif sign == "seen again":
            page.evaluate(LOOK, "hidden")
            page.clock.run_for(60_000)
            page.evaluate(LOOK, "visible")
        else:
            show = "new PageTransitionEvent('pageshow', { persisted: true })"
            page.evaluate(f"() => void window.dispatchEvent({show})")
        proxy.swallow()
        page.clock.run_for(6_000)
        wait(page, "() => flow.connected && flow.state === 'yellow'")


def test_a_glance_aside(page: Page, fake_server: FakeServer) -> None:
    """A page that was hidden for a moment asks nothing."""
    socket = fake_server.websocket().accept()
    socket.send(STATE)
    wait(page, CONNECTED)
    for visibility in ("hidden", "visible"):
        page.evaluate(LOOK, visibility)
    page.evaluate("() => void flow.send('next')")
    assert socket.receive()["event"] == "next"


def test_restored(restoring: Browser, fake_server: FakeServer) -> None:
    """A page out of the back/forward cache is loaded anew."""
    with restoring.new_context() as context:
        page = context.new_page()
        page.goto(fake_server.url)
        fake_server.websocket().accept().send(STATE)
        wait(page, CONNECTED)
        # Chromium keeps no page there whose websocket is open.
        page.evaluate(
            "() => { flow.close(); window.old = true; addEventListener('pageshow',"
            " (event) => sessionStorage.restored = event.persisted); }"
        )
        page.goto(f"{fake_server.url}/fsm/static/fsm.js")
        # The load of the restored page ends in another one, so it is not waited for.
        page.evaluate("() => void setTimeout(() => history.back())")
        fake_server.websocket().accept().send(STATE)
        wait(page, CONNECTED, "() => !window.old && sessionStorage.restored === 'true'")
