"""Service: what the live part keeps of one app. It hears what is committed, and tells the bus."""

from __future__ import annotations

import hashlib
import logging
import weakref
from collections.abc import Callable
from math import ceil
from typing import Any, Final

from ..bus import Bus, Revision, open_bus
from ..config import Config
from ..core.event import EventStatus
from ..core.flow import Flow, Result
from ..core.names import is_name
from ..core.snapshot import Snapshot
from ..errors import ConfigError, FSMError
from ..runtime.listeners import Sender
from ..runtime.unit_of_work import channel_key
from ..security.origin import check_allowed
from .channels.app_channels import FLOW, GROUP, ORDERS, SUBJECT, Channels
from .protocol.close_codes import CloseCode
from .protocol.frames import Envelope, EnvelopeKind, data_frame, dumps, run_of, state_frame
from .server.engine import Engine
from .server.handoff import is_plain
from .server.loop import LoopEngine
from .server.threads import ThreadEngine

__all__ = ["ENGINES", "Service"]

log: Final = logging.getLogger("flask_fsm")
ENGINES: Final = ("auto", "loop", "threads")
# Seconds that what was published last may take, at the end of the process.
LAST: Final = 1.0
# How many sites that were refused the log names.
MOST_SITES: Final = 16


def _end(bus: Bus) -> None:
    bus.flush(LAST)
    bus.close()


class Service:
    """Observes the flows of an app, and serves those who listen to them."""

    def __init__(self, config: Config, authorize: Callable[[str], Any]) -> None:
        if config.live_engine not in ENGINES:
            raise ConfigError(
                f"The config key FSM_LIVE_ENGINE can't be {config.live_engine!r}: it is one of "
                f"{', '.join(ENGINES)}."
            )
        check_allowed(config)
        self.config = config
        self.authorize = authorize
        self._warned: set[str] = set()
        bus = open_bus(
            config.bus_url,
            prefix=config.redis_prefix,
            replay_limit=config.replay_limit,
            replay_time=config.replay_ttl,
        )
        # The bus keeps a message for up to half that time more, and may deliver it until then.
        self.once_seconds = ceil(config.replay_ttl * 1.5)
        """For how long an order that one process has taken is nobody else's."""
        self.channels: Channels = Channels(bus, config.sse_retry, config.queue_size)
        # What was published last is still on its way when the process ends.
        weakref.finalize(self, _end, bus)
        self.threads = ThreadEngine(config.max_threads)
        self.loop = LoopEngine(config.max_connections, config.live_workers)

    def warn_of_processes(self, environ: dict[str, Any], apart: bool) -> None:
        """Say once that several processes need a bus, and a store `apart` from the session."""
        if not environ.get("wsgi.multiprocess"):
            return
        for key, wrong in (
            ("FSM_BUS_URL", self.config.bus_url == "memory://"),
            ("FSM_STORE_URL", not apart),
        ):
            if wrong:
                self._warn_once(
                    key,
                    "This server has several processes, and with the %s that is set they know "
                    "nothing of each other: clients will miss what other processes do. Use Redis"
                    "%s.",
                    key,
                    "" if key == "FSM_BUS_URL" else " or a database",
                )

    def warn_of_site(self, site: str, host: str) -> None:
        """Say once that a page of this site was refused: it may be the app's own."""
        if sum(of.startswith("site ") for of in self._warned) >= MOST_SITES:
            return  # strangers may name any number
        self._warn_once(
            f"site {site} {host}",
            "A page of %r was refused at %r, as that is another site. If it is yours, list it in "
            "FSM_ALLOWED_ORIGINS; if a proxy is between, let it pass Host on as the browser has "
            "sent it, or use Werkzeug's ProxyFix.",
            site,
            host,
        )

    def warn_of_target(self, machine: str, event: str, error: FSMError) -> None:
        """Say once that the handler of an event has named a state that there is not."""
        self._warn_once(
            f"target {machine} {event}",
            "The event %r of machine %r: %s If a client has named it, all is well.",
            event,
            machine,
            error.message,
        )

    def warn_of_script(self, what: str) -> None:
        """Say once that what a script tells reaches nobody, if it has no bus and no clients."""
        if self.config.bus_url == "memory://" and not len(self.channels):
            self._warn_once(
                "script",
                "%s is used outside of a request, in a process where nobody listens, and with "
                "FSM_BUS_URL memory:// no other process hears of it. Use Redis.",
                what,
            )

    def _warn_once(self, of: str, text: str, *values: str) -> None:
        """Write a warning to the log, unless there was one of the same."""
        if of not in self._warned:
            self._warned.add(of)
            log.warning(text, *values)

    def engine_for(self, environ: dict[str, Any]) -> Engine:
        """Return what serves the socket of this request."""
        if self.config.live_engine != "threads" and is_plain(environ):
            return self.loop
        return self.threads

    # -- names of channels ----------------------------------------------------------------

    @staticmethod
    def flow_channel(id: str) -> str:
        """Return the name of the channel of a flow."""
        return FLOW + channel_key(id)

    @staticmethod
    def group_channel(group: str) -> str:
        """Return the name of the channel of a group."""
        return GROUP + group

    @staticmethod
    def orders_channel(group: str) -> str:
        """Return the name of the channel of what the flows of a group's members are to handle.

        Unlike what the group is told, nobody reads it, and nothing of it is sent again.
        """
        return ORDERS + group

    @staticmethod
    def subject_channel(subject: str) -> str:
        """Return the name of the channel of all sockets of a subject."""
        return SUBJECT + hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()

    # -- what is committed ----------------------------------------------------------------

    def moved(
        self, flow: Flow, result: Result, status: int, reply: Any, sender: Sender | None
    ) -> None:
        name = self.flow_channel(flow.id)
        if flow.subject is not None and not result.previous.rev:
            self._tell_subject(flow.subject)
        if not self.channels.bus.has_subscribers(name):
            return
        snapshot = result.snapshot
        body = state_frame(flow.machine, snapshot, status, reply)
        run = run_of(snapshot)
        # A run that follows another one ends it, so that nothing late of that one comes after.
        ended = None if not run else "" if run == "1" else str(int(run) - 1)
        if sender is None:
            envelope = Envelope(EnvelopeKind.STATE, body, run=run, rev=snapshot.rev)
            self.channels.publish(name, envelope, Revision(run, snapshot.rev, ended))
        else:
            # It is answered, even if another process has told of a later state before.
            envelope = Envelope(EnvelopeKind.STATE, body, sender.id, sender.ref, run, snapshot.rev)
            self.channels.publish(name, sender.mark(name, envelope))

    def _tell_subject(self, subject: str) -> None:
        """Let other devices look again: they may show a flow that had not begun, or the last one.

        They all find it by its subject, but each channel goes by the id of a flow.
        """
        name = self.subject_channel(subject)
        if self.channels.bus.has_subscribers(name):
            self.channels.publish(name, Envelope(EnvelopeKind.RECHECK, "null"))

    def transmitted(self, flow: Flow, data: Any, status: int, sender: Sender | None) -> None:
        self.transmit(self.flow_channel(flow.id), data, status, sender)

    def transmit(
        self, name: str, data: Any, status: int = EventStatus.OK, sender: Sender | None = None
    ) -> None:
        """Send a data frame to the channel of a flow."""
        body = data_frame(data, status)
        if not self.channels.bus.has_subscribers(name):
            return
        if sender is None:
            self.channels.publish(name, Envelope(EnvelopeKind.DATA, body))
        else:
            envelope = Envelope(EnvelopeKind.DATA, body, sender.id, sender.ref)
            self.channels.publish(name, sender.mark(name, envelope))

    def replaced(self, previous: Snapshot, flow: Flow) -> None:
        if flow.subject is not None:
            self._tell_subject(flow.subject)
        else:
            self._close(
                self.flow_channel(previous.id), EnvelopeKind.REPLACED, CloseCode.SERVICE_RESTART
            )

    def moved_away(self, key: str) -> None:
        self._close(FLOW + key, EnvelopeKind.LEFT, CloseCode.SUBJECT_CHANGED)

    def close_subject(self, subject: str) -> None:
        """End all sockets and streams of a subject, in all processes."""
        self._close(self.subject_channel(subject), EnvelopeKind.CLOSE, CloseCode.SUBJECT_CHANGED)

    def _close(self, name: str, kind: EnvelopeKind, code: CloseCode) -> None:
        if self.channels.bus.has_subscribers(name):
            self.channels.publish(name, Envelope(kind, str(code)))

    def ask(self, group: str, event: str, data: Any) -> None:
        """Let the flow of each member of a group handle an event."""
        if not is_name(event):
            raise TypeError(f"An event has a name, and {event!r} is none.")
        envelope = Envelope(EnvelopeKind.SEND_EVENT, dumps({"event": event, "data": data}))
        self.channels.publish(self.orders_channel(group), envelope)
