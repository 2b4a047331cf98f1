"""Service: the live part of one app. It listens to commits, and publishes them on the bus."""

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
from ..outages import OutageLog
from ..runtime.listeners import Sender
from ..runtime.unit_of_work import channel_key
from ..security.origin import check_allowed
from .admission import Admission
from .channels.app_channels import FLOW, GROUP, GROUP_EVENTS, SUBJECT, Channels
from .protocol.close_codes import CloseCode
from .protocol.frames import Envelope, EnvelopeKind, data_frame, dumps, run_of, state_frame
from .server.engine import Engine
from .server.handoff import is_plain
from .server.loop_engine import LoopEngine
from .server.thread_engine import ThreadEngine

__all__ = ["ENGINES", "Service"]

log: Final = logging.getLogger("flask_fsm")
ENGINES: Final = ("auto", "loop", "threads")
# Seconds that the last messages may take at the end of the process.
FLUSH_TIMEOUT: Final = 1.0
# How many refused sites are logged, since strangers may send any number of Origins.
MAX_SITES: Final = 16


def _end(bus: Bus) -> None:
    bus.flush(FLUSH_TIMEOUT)
    bus.close()


class Service:
    """Sends the transitions of an app's flows to their clients; a CommitListener (see runtime)."""

    def __init__(
        self,
        config: Config,
        authorize: Callable[[str], Any],
        admission: Admission,
        outages: OutageLog,
    ) -> None:
        if config.live_engine not in ENGINES:
            raise ConfigError(
                f"The config key FSM_LIVE_ENGINE can't be {config.live_engine!r}: it must be "
                f"one of {', '.join(ENGINES)}."
            )
        check_allowed(config)
        self.config = config
        self.authorize = authorize
        self.admission = admission
        self._warned: set[str] = set()
        bus = open_bus(
            config.bus_url,
            prefix=config.redis_prefix,
            replay_limit=config.replay_limit,
            replay_bytes=config.replay_bytes,
            replay_time=config.replay_ttl,
        )
        # The bus may store and deliver a message for up to half that time longer.
        self.once_seconds: int = ceil(config.replay_ttl * 1.5)
        """Seconds for which a job that one process has taken is refused to the others."""
        self.channels: Channels = Channels(
            bus, config.sse_retry, config.queue_size, config.queue_bytes, outages
        )
        # Messages may still be on their way when the process ends.
        weakref.finalize(self, _end, bus)
        per_address = config.max_connections_per_address
        self.threads: ThreadEngine = ThreadEngine(config.max_threads, per_address)
        self.loop: LoopEngine = LoopEngine(config.max_connections, config.live_workers, per_address)

    def warn_of_processes(self, environ: dict[str, Any], on_server: bool) -> None:
        """Warn once that several processes need a bus, and a store that is `on_server`."""
        if not environ.get("wsgi.multiprocess"):
            return
        for key, wrong in (
            ("FSM_BUS_URL", self.config.bus_url == "memory://"),
            ("FSM_STORE_URL", not on_server),
        ):
            if wrong:
                self._warn_once(
                    key,
                    "This server has several processes, which don't share anything with this %s: "
                    "clients will miss what other processes do. Use Redis%s.",
                    key,
                    "" if key == "FSM_BUS_URL" else " or a database",
                )

    def warn_of_site(self, site: str, host: str) -> None:
        """Warn once that a page of this site was refused because of its Origin."""
        if sum(key.startswith("site ") for key in self._warned) >= MAX_SITES:
            return
        self._warn_once(
            f"site {site} {host}",
            "A page of %r was refused at %r, because it is another site. If it is yours, list it "
            "in FSM_ALLOWED_ORIGINS; behind a proxy, let it pass on the browser's Host header, or "
            "use Werkzeug's ProxyFix.",
            site,
            host,
        )

    def warn_of_proxy(self, address: str) -> None:
        """Warn once that clients behind a proxy may count as one, as they share its address."""
        self._warn_once(
            "proxy",
            "A connection from %s was refused because of FSM_MAX_CONNECTIONS_PER_ADDRESS, but a "
            "proxy has passed it on (X-Forwarded-For), and all clients behind it count as one. If "
            "the proxy is yours, use Werkzeug's ProxyFix(app.wsgi_app, x_for=1).",
            address,
        )

    def warn_of_target(self, machine: str, event: str, error: FSMError) -> None:
        """Warn once that the handler of an event tried to move to an unknown state."""
        self._warn_once(
            f"target {machine} {event}",
            "The event %r of machine %r: %s Ignore this if the name came from a client.",
            event,
            machine,
            error.message,
        )

    def warn_of_script(self, what: str) -> None:
        """Warn once that the messages of a script reach no client without a shared bus."""
        if self.config.bus_url == "memory://" and not len(self.channels):
            self._warn_once(
                "script",
                "%s is used outside of a request, in a process without clients, and with the "
                "FSM_BUS_URL memory:// it reaches no other process. Use Redis.",
                what,
            )

    def _warn_once(self, key: str, text: str, *values: str) -> None:
        """Log a warning, unless one with this key has been logged."""
        if key not in self._warned:
            self._warned.add(key)
            log.warning(text, *values)

    def engine_for(self, environ: dict[str, Any]) -> Engine:
        """Return the engine that serves the socket of this request: the loop, or else threads."""
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
    def group_events_channel(group: str) -> str:
        """Return the name of the channel of events that the members' flows must handle.

        Clients do not see these messages, so they are not replayed after a reconnect.
        """
        return GROUP_EVENTS + group

    @staticmethod
    def subject_channel(subject: str) -> str:
        """Return the name of the channel of all connections of a subject."""
        return SUBJECT + hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()

    # -- commits --------------------------------------------------------------------------

    def moved(
        self, flow: Flow, result: Result, status: int, reply: Any, sender: Sender | None
    ) -> None:
        name = self.flow_channel(flow.id)
        if flow.subject is not None and not result.previous.rev:
            self._recheck_subject(flow.subject)
        if not self.channels.bus.has_subscribers(name):
            return
        snapshot = result.snapshot
        body = state_frame(flow.machine, snapshot, status, reply)
        run = run_of(snapshot)
        # A new run ends the one before it, whose late states must be dropped.
        ended = None if not run else "" if run == "1" else str(int(run) - 1)
        if sender is None:
            envelope = Envelope(EnvelopeKind.STATE, body, run=run, rev=snapshot.rev)
            self.channels.publish(name, envelope, Revision(run, snapshot.rev, ended))
        else:
            # The sender gets its reply, even after a later state from another process.
            envelope = Envelope(EnvelopeKind.STATE, body, sender.id, sender.ref, run, snapshot.rev)
            self.channels.publish(name, sender.prepare_reply(name, envelope))

    def _recheck_subject(self, subject: str) -> None:
        """Have the subject's other devices look up the flow again, as it may have a new id.

        They may show a flow that had not begun, or an earlier run; a channel belongs to one id.
        """
        name = self.subject_channel(subject)
        if self.channels.bus.has_subscribers(name):
            self.channels.publish(name, Envelope(EnvelopeKind.RECHECK, "null"))

    def transmitted(self, flow: Flow, data: Any, status: int, sender: Sender | None) -> None:
        self.transmit(self.flow_channel(flow.id), data, status, sender)

    def transmit(
        self, name: str, data: Any, status: int = EventStatus.OK, sender: Sender | None = None
    ) -> None:
        """Publish a data frame on the channel of a flow."""
        body = data_frame(data, status)
        if not self.channels.bus.has_subscribers(name):
            return
        if sender is None:
            self.channels.publish(name, Envelope(EnvelopeKind.DATA, body))
        else:
            envelope = Envelope(EnvelopeKind.DATA, body, sender.id, sender.ref)
            self.channels.publish(name, sender.prepare_reply(name, envelope))

    def replaced(self, previous: Snapshot, flow: Flow) -> None:
        if flow.subject is not None:
            self._recheck_subject(flow.subject)
        else:
            self._close(
                self.flow_channel(previous.id), EnvelopeKind.REPLACED, CloseCode.SERVICE_RESTART
            )

    def moved_away(self, key: str) -> None:
        self._close(FLOW + key, EnvelopeKind.MOVED_AWAY, CloseCode.SUBJECT_CHANGED)

    def close_subject(self, subject: str) -> None:
        """Close all websockets and streams of a subject, in all processes."""
        self._close(self.subject_channel(subject), EnvelopeKind.CLOSE, CloseCode.SUBJECT_CHANGED)

    def _close(self, name: str, kind: EnvelopeKind, code: CloseCode) -> None:
        if self.channels.bus.has_subscribers(name):
            self.channels.publish(name, Envelope(kind, str(code)))

    def send_to_members(self, group: str, event: str, data: Any) -> None:
        """Have the flow of each member of a group handle an event."""
        if not is_name(event):
            raise TypeError(f"{event!r} is not a valid event name.")
        envelope = Envelope(EnvelopeKind.SEND_EVENT, dumps({"event": event, "data": data}))
        self.channels.publish(self.group_events_channel(group), envelope)
