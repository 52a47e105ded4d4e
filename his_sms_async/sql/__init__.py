"""The store in SQL: a poller's position in the user's own database, and settlements in the user's transactions."""

from importlib.util import find_spec

if find_spec("sqlalchemy") is None:
    raise ModuleNotFoundError("his_sms_async.sql needs SQLAlchemy: install his_sms_async[sql]", name="sqlalchemy")

from ._store import SqlStore

__all__ = ["SqlStore"]
