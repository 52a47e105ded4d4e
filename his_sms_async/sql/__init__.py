"""The store in SQL: a poller's position in the user's own database, and settlements in the user's transactions."""

from ._store import SqlStore

__all__ = ["SqlStore"]
