"""Subjects: sockets belong to who opened them, and are closed when that is somebody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .serving import Browser, Site, Sites

OTHER_USER = 4401


def signed_in(site: Site, user: str) -> Browser:
    browser = site.browser()
    browser.get(f"/login/{user}")
    return browser


def test_a_sign_out(site: Site) -> None:
    """Whoever signs out loses his sockets, with 4401, and his streams; others lose nothing."""
    ada, bob = signed_in(site, "ada"), signed_in(site, "bob")
    with (
        ada.websocket("lab") as one,
        ada.websocket("traffic") as two,
        ada.curl_events("lab") as stream,
        bob.websocket("lab") as other,
        site.browser().websocket("lab") as anonymous,
    ):
        for client in (one, two, stream, other, anonymous):
            client.receive()
        ada.get("/logout")
        assert one.closed() == OTHER_USER
        assert two.closed() == OTHER_USER
        stream.ended()
        other.silent()
        anonymous.silent()


def test_a_change_of_user(site: Site) -> None:
    """When another user signs in, the old one's sockets are closed, and a new flow is shown."""
    browser = signed_in(site, "dora")
    with browser.websocket("lab") as client:
        client.receive()
        client.ask("start")
        browser.get("/login/emil")
        assert client.closed() == OTHER_USER
    with browser.websocket("lab") as client:
        assert client.receive()["state"] == "idle"
    browser.get("/login/dora")


def test_a_sign_in(site: Site) -> None:
    """Who signs in takes the flow along; the sockets from before are closed, and find it again."""
    browser = site.browser()
    with browser.websocket("lab") as client:
        client.receive()
        client.ask("start")
        browser.get("/login/fred")
        assert client.closed() == OTHER_USER
    with browser.websocket("lab") as client:
        frame = client.receive()
        assert (frame["state"], frame["rev"]) == ("busy", 1)
        assert client.ask("look")["data"]["user"] == "fred"


def test_one_flow_on_two_devices(site: Site) -> None:
    """Two browsers of one user share the flow: both see what each of them does."""
    here, there = signed_in(site, "gina"), signed_in(site, "gina")
    here.event("lab", "start")
    here.event("lab", "stop")
    with here.websocket("lab") as one, there.websocket("lab") as other:
        assert one.receive()["rev"] == other.receive()["rev"]
        rev = one.ask("start")["rev"]
        assert other.receive()["rev"] == rev
        assert other.ask("stop")["rev"] == rev + 1
        assert one.receive()["rev"] == rev + 1


def test_two_devices_at_the_beginning(site: Site) -> None:
    """So it is if both were there before the flow had begun."""
    here, there = signed_in(site, "greta"), signed_in(site, "greta")
    with here.websocket("lab") as one, there.websocket("lab") as other:
        assert one.receive()["rev"] == other.receive()["rev"] == 0
        assert one.ask("start")["rev"] == 1
        assert other.receive()["rev"] == 1
        # It may come again with "gap": the channel told it while the flow was being looked up.
        other.send("stop", ref="stop")
        *before, answer = other.until("stop")
        assert all(frame["rev"] == 1 and frame["gap"] for frame in before)
        assert answer["rev"] == 2


def test_other_news_in_the_session(site: Site) -> None:
    """A session that changes without another user, or is given the same one, closes nothing."""
    browser = signed_in(site, "hanna")
    with browser.websocket("lab") as client, browser.curl_events("lab") as stream:
        client.receive()
        stream.receive()
        browser.get("/note/something")
        browser.get("/login/hanna")
        browser.post("/cart", item="book")
        client.silent()
        assert stream.receive()["data"] == "pong"


def test_an_anonymous_session_that_changes(site: Site) -> None:
    """A session without a user keeps its sockets whatever else is written into it."""
    browser = site.browser()
    with browser.websocket("lab") as client:
        client.receive()
        browser.get("/note/something")
        browser.get("/logout")
        client.silent()


def test_closing_a_subject(site: Site) -> None:
    """`fsm.live.close(subject)` ends all of a subject's sockets and streams, of all machines."""
    here, there = signed_in(site, "ivan"), signed_in(site, "ivan")
    with (
        here.websocket("lab") as one,
        there.websocket("traffic") as two,
        there.curl_events("checkout") as stream,
        signed_in(site, "ivanka").websocket("lab") as other,
    ):
        for client in (one, two, stream, other):
            client.receive()
        site.browser().get("/close/ivan")
        assert one.closed() == two.closed() == OTHER_USER
        stream.ended()
        other.silent()


def test_sockets_of_machines_of_connections(site: Site) -> None:
    """Sockets with flows of their own are closed with their user, whose groups they hear."""
    browser, guest, other = signed_in(site, "karl"), site.browser(), signed_in(site, "klara")
    with (
        other.websocket("light", groups=["named3"]) as watching,
        browser.websocket("light", groups=["named3"]) as client,
        guest.websocket("light", groups=["named3"]) as third,
    ):
        for socket in (watching, client, third):
            socket.receive()
        browser.get("/logout")
        assert client.closed() == 4401
        left = watching.receive()
        while left["type"] != "leave":
            left = watching.receive()
        assert left["data"]["name"] == "karl"
        for socket in (watching, third):
            socket.send("change_to_green", ref="on")
            assert socket.until("on")[-1]["state"] == "green"


def test_who_is_turned_away(site: Site, engine: str) -> None:
    """`abort()` in the function that says whose flow it is means at each endpoint what it means."""
    name = f"nora-{engine}"
    browser = signed_in(site, name)
    with browser.websocket("lab") as client:
        client.receive()
        site.browser().get(f"/ban/{name}")
        frame = client.ask("start", ref=1)
        assert (frame["status"], frame["ref"]) == (401, 1)
        assert frame["data"] == {"reason": "aborted", "message": "Not any more."}
    for path in ("/fsm/lab/state", "/fsm/lab/ws", "/fsm/light/ws"):
        assert browser.get(path).status == 401
    assert browser.event("lab", "start").status == 401
    assert site.browser().event("lab", "start").status == 200


def test_what_handlers_know_of_the_user(site: Site) -> None:
    """A handler sees the session of who opened the socket."""
    with signed_in(site, "lena").websocket("lab") as client:
        client.receive()
        assert client.ask("look")["data"]["user"] == "lena"


@pytest.fixture
def workers(sites: Sites, fresh_store: Callable[[str], str]) -> Site:
    """The app in two processes, on a database and Valkey's bus."""
    bus = sites.once("bus redis", lambda: fresh_store("redis"))
    store = sites.once("store of workers", lambda: fresh_store("sqlite"))
    return sites.get("loop", workers=2, FSM_BUS_URL=bus, FSM_STORE_URL=store)


def test_a_sign_out_in_another_process(workers: Site) -> None:
    """A sign-out in one worker closes the sockets that another one serves."""
    browser = signed_in(workers, "mona")
    clients = [browser.websocket("lab") for _ in range(8)]
    try:
        for client in clients:
            client.receive()
        browser.get("/logout")
        assert [client.closed() for client in clients] == [OTHER_USER] * 8
    finally:
        for client in clients:
            client.close()


def test_a_sign_in_in_another_process(workers: Site) -> None:
    """So does a sign-in with the sockets of the session from before, and a reset."""
    browser = workers.browser()
    browser.state("lab")
    clients = [browser.websocket("lab") for _ in range(8)]
    try:
        for client in clients:
            client.receive()
        clients[0].ask("start")
        assert all(client.receive()["state"] == "busy" for client in clients[1:])
        browser.get("/login/nora")
        assert [client.closed() for client in clients] == [OTHER_USER] * 8
    finally:
        for client in clients:
            client.close()
    with browser.websocket("lab") as client:
        assert client.receive()["state"] == "busy"
