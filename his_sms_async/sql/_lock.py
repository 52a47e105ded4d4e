"""Who uses a SQLite file: one process at a time, which the operating system forgets if it dies."""

import hashlib
import sqlite3
from urllib.parse import quote

from his_sms_async._errors import StoreError

Lock = sqlite3.Connection


_MAX_NAME = 100
"""Characters of a file's name that a poller's name may take."""


def lock(path: str, prefix: str, name: str) -> Lock:
    """Take the lock of a poller's name, which is SQLite's own on a file beside the database.

    SQLite locks files on every operating system, and a process that was killed holds none.

    Raises:
        StoreError: Another process, or another store of this one, holds it.
        sqlite3.Error: The file cannot be made.
    """
    poller = quote(f"{prefix}{name}", safe="")
    if len(poller) > _MAX_NAME:
        poller = hashlib.sha256(poller.encode()).hexdigest()
    connection = sqlite3.connect(f"{path}-{poller}.lock", timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        connection.close()
        if error.sqlite_errorname != "SQLITE_BUSY":
            raise
    else:
        return connection
    msg = (
        f"another process uses the SQLite store for the poller {name!r}; stop that one, or use PostgreSQL, "
        "where replicas share a store"
    )
    raise StoreError(msg)
