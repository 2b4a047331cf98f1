"""Groups: who may join, what they are told, who is there, and what the app says to flows."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from flask_fsm import FlaskFSM, Machine

from .apps import SECRET
from .serving import Browser, Site, Sites, Socket, until


def joined(browser: Browser, *groups: str, machine: str = "lab", **options: Any) -> Socket:
    """A socket in groups, after its state and the news that it has joined."""
    client = browser.websocket(machine, groups=groups, **options)
    client.receive()
    for group in groups:
        frame = client.receive()
        assert (frame["group"], frame["type"]) == (group, "join")
    return client


def told(site: Site, group: str, *messages: Any, **query: Any) -> None:
    """Let the app tell a group something, from a request that has nothing to do with it."""
    texts = [json.dumps(message) for message in messages]
    assert site.browser().get(f"/broadcast/{group}", text=texts, **query).status == 200


# -- messages -----------------------------------------------------------------------------------


def test_a_broadcast(site: Site) -> None:
    """What the app tells a group reaches its members in order, and nobody else."""
    with (
        joined(site.browser(), "ops") as one,
        joined(site.browser(), "ops") as other,
        site.browser().websocket("lab") as stranger,
    ):
        stranger.receive()
        assert one.receive()["type"] == "join"
        told(site, "ops", *range(20))
        for client in (one, other):
            frames = [client.receive() for _ in range(20)]
            assert [frame["data"] for frame in frames] == list(range(20))
            assert {(f["group"], f["type"]) for f in frames} == {("ops", "message")}
        stranger.silent()


def test_a_message_with_a_type(site: Site) -> None:
    """A Message brings its type, and whatever JSON it has."""
    with joined(site.browser(), "ops1") as client:
        for data in (None, 0, "text", [1], {"a": {"b": None}}):
            told(site, "ops1", data, type="news")
            frame = client.receive()
            assert (frame["type"], frame["data"]) == ("news", data)


def test_several_groups(site: Site) -> None:
    """A client joins the groups that it asks for, once each; the id has a place for each."""
    with joined(site.browser(), "ops2", "ops3") as client:
        told(site, "ops3", "three")
        told(site, "ops2", "two")
        frames = [client.receive(), client.receive()]
        assert [(f["group"], f["data"]) for f in frames] == [("ops3", "three"), ("ops2", "two")]
        before, after = (frame["id"].split(",") for frame in frames)
        assert len(before) == len(after) == 3
        assert before[0] == after[0]
        assert before[2] == after[2]
        assert before[1] != after[1]
    # Another one, for the member of those may be just about to leave.
    with site.browser().websocket("lab", groups=["opsc", "opsc"]) as client:
        client.receive()
        assert client.receive()["type"] == "join"
        told(site, "opsc", "once")
        assert client.receive()["data"] == "once"
        client.silent()


def test_all_or_nothing(site: Site) -> None:
    """Who may not join one of the groups joins none."""
    browser = site.browser()
    with browser.curl_events("lab", groups=["ops4", "closed"]) as stream:
        stream.ended()
        assert stream.status == 403
    assert browser.get("/members/ops4").json["members"] == []


def test_a_group_of_a_machine_of_connections(site: Site) -> None:
    """Sockets with flows of their own join groups too."""
    with joined(site.browser(), "ops5", machine="light") as client:
        told(site, "ops5", "hello")
        assert client.receive()["data"] == "hello"
        assert client.ask("change_to_green")["state"] == "green"


def test_missed_messages(site: Site) -> None:
    """Who comes back gets what the groups were told meanwhile, and no gap."""
    browser = site.browser()
    with joined(site.browser(), "ops6") as keeper:
        with joined(browser, "ops6") as client:
            told(site, "ops6", "seen")
            id = client.receive()["id"]
        for _ in range(3):
            keeper.receive()  # join, seen, leave
        told(site, "ops6", *range(5))
        with browser.websocket("lab", groups=["ops6"], since=id) as client:
            types = []
            data = []
            while data[-1:] != [4]:
                frame = client.receive()
                assert "gap" not in frame
                types.append(frame.get("type"))
                data += [frame["data"]] if frame.get("type") == "message" else []
            assert data == list(range(5))
            assert types.count("leave") == 1


def test_a_gap_of_a_group(site: Site) -> None:
    """Where a group's messages are lost, the group frame says so."""
    browser = site.browser()
    with joined(browser, "ops7") as client:
        flow = client.ask("ping")["id"].split(",")[0]
    with browser.websocket("lab", groups=["ops7"], since=f"{flow},unknown-3") as client:
        frames = [client.receive(), client.receive()]
        gap = next(frame for frame in frames if "group" in frame)
        state = next(frame for frame in frames if "state" in frame)
        assert (gap["group"], gap["type"], gap["gap"], gap["data"]) == ("ops7", "gap", True, None)
        assert "gap" not in state


def test_a_member_of_whom_nothing_is_said(site: Site) -> None:
    """`authorize` may return an empty dict."""
    with joined(site.browser(), "ops-plain") as client:
        assert set(client.frames[-1]["data"]) == {"member"}


# -- presence -----------------------------------------------------------------------------------


def test_presence(site: Site) -> None:
    """Joining and leaving are told, with what the app says of the member, and members() knows."""
    ada = site.browser()
    ada.get("/login/ada")
    watcher = site.browser()
    with joined(watcher, "named") as watching:
        with joined(ada, "named") as client:
            frame = watching.receive()
            assert (frame["type"], frame["data"]["name"]) == ("join", "ada")
            member = frame["data"]["member"]
            members = watcher.get("/members/named").json["members"]
            assert sorted(each["name"] for each in members) == ["ada", "guest"]
            assert len({each["member"] for each in members}) == 2
            assert client.frames[-1]["data"]["member"] == member
        frame = watching.receive()
        assert (frame["type"], frame["data"]) == ("leave", {"member": member, "name": "ada"})
        members = watcher.get("/members/named").json["members"]
        assert [each["name"] for each in members] == ["guest"]


def test_a_stream_is_present(site: Site) -> None:
    """Streams are members too, until their client is gone."""
    with joined(site.browser(), "named1") as watching:
        with site.browser().curl_events("lab", groups=["named1"]) as stream:
            stream.receive()
            assert watching.receive()["type"] == "join"
        assert watching.receive()["type"] == "leave"


def test_a_connection_that_breaks(site: Site) -> None:
    """A member whose connection breaks has left."""
    with joined(site.browser(), "named2") as watching:
        client = joined(site.browser(), "named2")
        assert watching.receive()["type"] == "join"
        client.cut()
        assert watching.receive()["type"] == "leave"


def test_members_stay(sites: Sites, engine: str) -> None:
    """Who is alive stays a member beyond FSM_PRESENCE_TTL."""
    site = sites.get(engine, FSM_PRESENCE_TTL=1, FSM_HEARTBEAT=0.2)
    with (
        joined(site.browser(), "named") as watching,
        site.browser().curl_events("lab", groups=["named"]) as stream,
    ):
        stream.commented(10)
        assert len(site.browser().get("/members/named").json["members"]) == 2
        assert watching.receive()["type"] == "join"
        watching.silent()


def test_a_process_that_dies(fresh_store: Callable[[str], str]) -> None:
    """Members whose process was killed have left after FSM_PRESENCE_TTL, as others are told."""
    config = {"FSM_BUS_URL": fresh_store("redis"), "FSM_PRESENCE_TTL": 1, "FSM_HEARTBEAT": 0.2}
    with Site("loop", **config) as here, joined(here.browser(), "named") as watching:
        with Site("loop", **config) as there:
            client = joined(there.browser(), "named")
            frame = watching.receive()
            assert frame["type"] == "join"
            told(there, "named", "from there")
            assert watching.receive()["data"] == "from there"
            there.server.stop()
        assert client.closed() == 1006
        client.close()
        left = watching.receive()
        assert (left["type"], left["data"]) == ("leave", frame["data"])
        members = here.browser().get("/members/named").json["members"]
        assert [each["member"] for each in members] != [frame["data"]["member"]]
        assert len(members) == 1
        watching.silent()


# -- events from the app's side -----------------------------------------------------------------


def test_an_event_for_a_group(site: Site) -> None:
    """`group.send` runs an event on each member's flow, once, however many sockets it has."""
    one, other = site.browser(), site.browser()
    with (
        joined(one, "ops8") as first,
        one.websocket("lab", groups=["ops8"]) as second,
        one.curl_events("lab", groups=["ops8"]) as stream,
        joined(other, "ops8") as third,
    ):
        assert site.browser().get("/ask/ops8/start").status == 200
        for client in (first, second, stream, third):
            while "state" not in (frame := client.receive()) or frame["state"] != "busy":
                pass
            assert frame["rev"] == 1
        for client in (first, second):  # an event that was handled twice would be refused once
            client.send("ping", ref="end")
            assert all(frame["status"] == 200 for frame in client.until("end"))
        assert one.state("lab")["rev"] == other.state("lab")["rev"] == 1


def test_an_event_for_a_group_is_not_sent_again(site: Site) -> None:
    """Who comes back is told what was missed, and handles no event of that time, or once more."""
    one = site.browser()
    with joined(one, "opsb") as client:
        client.send("ping", ref=1)
        last = client.until(1)
    with joined(site.browser(), "opsb") as other:
        assert site.browser().get("/ask/opsb/start").status == 200
        while "state" not in (frame := other.receive()) or frame["state"] != "busy":
            pass
        since = next(frame["id"] for frame in reversed(last) if "id" in frame)
        with one.websocket("lab", groups=["opsb"], since=since) as client:
            client.send("ping", ref="end")
            assert client.until("end")[-1]["data"] == "pong"
    assert one.state("lab")["rev"] == 0


def test_a_flow_of_its_own_and_a_group(site: Site) -> None:
    """A websocket with a flow of its own comes back to its groups, whatever became of the flow."""
    one = site.browser()
    with joined(site.browser(), "opsf") as keeper:
        with joined(one, "opsf", machine="light") as client:
            assert client.ask("change_to_green")["state"] == "green"
            told(site, "opsf", "first")
            since = client.receive()["id"]
        while keeper.receive()["type"] != "leave":
            pass
        told(site, "opsf", "second", "third")
        with one.websocket("light", groups=["opsf"], since=since) as client:
            missed = [client.receive() for _ in range(3)]
            assert [(frame["type"], frame["data"]) for frame in missed[1:]] == [
                ("message", "second"),
                ("message", "third"),
            ]
            assert missed[0]["type"] == "leave"  # its own
            frame = client.receive()
            assert (frame["state"], frame["rev"]) == ("red", 0)
            assert frame["id"]  # with which it may come back, should it hear nothing more
            assert client.receive()["type"] == "join"
            assert "id" not in client.ask("change_to_green")
        with one.websocket("light", groups=["opsf"], since="long-ago") as client:
            frame = client.receive()
            assert (frame["group"], frame["type"], frame["gap"]) == ("opsf", "gap", True)
            assert client.receive()["state"] == "red"
        with one.websocket("light", since=since) as client:
            assert "id" not in client.receive()


def test_a_script_that_nobody_hears(caplog: pytest.LogCaptureFixture) -> None:
    """Where no bus leads out of a process without clients, the log says once that nobody hears."""
    app = Flask("script")
    app.secret_key = SECRET
    fsm = FlaskFSM(Machine("m", [("a", "b")]))
    fsm.init_app(app)

    def tell() -> None:
        with app.app_context():
            fsm.live.group("ops").broadcast("hello")

    with ThreadPoolExecutor(1) as pool:  # as a server's own thread may do before anybody has come
        pool.submit(tell).result()
    with app.test_request_context():
        channel = fsm.live.channel("ops")
        channel.broadcast("hello")
    with app.app_context(), channel.watch():
        fsm.live.group("ops").broadcast("hello")
    assert caplog.text == ""
    del channel
    tell()
    assert "fsm.live.group() is used outside of a request" in caplog.text
    tell()
    assert len(caplog.records) == 1


def test_orders_are_nothing_that_a_group_is_told() -> None:
    """Who listens to the group's channel hears nothing of what its flows are to handle."""
    app = Flask("orders")
    app.secret_key = SECRET
    fsm = FlaskFSM(app, Machine("m", [("a", "b")]))
    with app.app_context():
        group = fsm.live.group("ops")
        listener = group.channel.add_listener()
        listener.start()
        group.send("refund", {"card": "4711"})
        group.broadcast("hello")
        assert group.channel.deliver_next(listener.id).payload == "hello"


def test_an_event_for_a_group_that_is_refused(site: Site) -> None:
    """Members whose flow does not know the event are told of it like any client; all live on."""
    with joined(site.browser(), "ops9") as client:
        site.browser().get("/ask/ops9/fly")
        assert client.receive()["status"] == 402
        site.browser().get("/ask/ops9/boom")
        assert client.receive()["status"] == 405
        assert client.ask("ping")["data"] == "pong"


def test_an_event_for_a_group_of_connections(site: Site) -> None:
    """Each socket with a flow of its own handles the event."""
    with (
        joined(site.browser(), "opsa", machine="light") as one,
        joined(site.browser(), "opsa", machine="light") as other,
    ):
        one.receive()
        site.browser().get("/ask/opsa/change_to_green", data='"x"')
        for client in (one, other):
            frame = client.receive()
            assert (frame["state"], frame["data"]) == ("green", "x")


def flow_of(browser: Browser) -> str:
    """Begin the checkout of a browser, and return the id of its flow."""
    assert browser.post("/cart", item="book").status < 400
    return str(browser.get("/flow").json["id"])


def test_a_word_to_a_flow(site: Site) -> None:
    """`flow(id).transmit` reaches the sockets and streams of that flow, from any request."""
    browser = site.browser()
    id = flow_of(browser)
    with browser.websocket("checkout") as client, browser.curl_events("checkout") as stream:
        client.receive()
        stream.receive()
        site.browser().get(f"/transmit/{id}", data='{"a": 1}')
        assert client.receive()["data"] == stream.receive()["data"] == {"a": 1}


def test_an_event_for_a_flow(site: Site) -> None:
    """`flow(id).send` runs an event now, returns the frames, and its clients are told of them."""
    browser = site.browser()
    id = flow_of(browser)
    with browser.websocket("checkout") as client:
        client.receive()
        frames = site.browser().get(f"/send/{id}/fill", data='"Main Street"').json["frames"]
        assert [(f["state"], f["rev"]) for f in frames] == [("payment", 2)]
        told = client.receive()
        assert (told["state"], told["data"]) == ("payment", {"street": "Main Street"})
        assert browser.get("/payment").json["rev"] == 2


def test_an_event_that_a_flow_refuses(site: Site) -> None:
    """`flow(id).send` raises what handling it raises, and changes nothing."""
    browser = site.browser()
    id = flow_of(browser)
    with browser.websocket("checkout") as client:
        client.receive()
        reply = site.browser().get(f"/send/{id}/fly").json
        assert reply["raised"] == "InvalidTransition"
        assert client.ask("peek", rev=1)["status"] == 200


@pytest.mark.parametrize("id", ["unknown", "x" * 500, "a~1"])
def test_a_flow_that_is_not_there(site: Site, id: str) -> None:
    """`flow(id).send` says that there is none; a word to it reaches nobody."""
    assert site.browser().get(f"/send/{id}/fill").json["raised"] == "NotFound"
    assert site.browser().get(f"/transmit/{id}").status == 200


def test_a_flow_of_a_subject(site: Site) -> None:
    """A flow that belongs to somebody is found if that is named, and by nobody else's name."""
    browser = site.browser()
    browser.get("/login/carol")
    id = flow_of(browser)
    stranger = site.browser()
    assert (
        stranger.get(f"/send/{id}/fill", data='"x"', subject="mallory").json["raised"] == "NotFound"
    )
    frames = stranger.get(f"/send/{id}/fill", data='"x"', subject="carol").json["frames"]
    assert frames[-1]["state"] == "payment"
    assert browser.get("/payment").json["rev"] == 2


def test_all_leave_in_the_end(site: Site) -> None:
    """When all connections of these tests are closed, nobody is left in any group."""
    browser = site.browser()
    for group in ("ops", "ops1", "ops8", "named", "named1", "named2"):
        until(lambda group=group: browser.get(f"/members/{group}").json["members"] == [])
