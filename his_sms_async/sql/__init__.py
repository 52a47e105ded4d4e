"""The store in SQL: a poller's position in the user's own database, and settlements in the user's transactions."""

try:
    from ._store import SqlStore
except ModuleNotFoundError as error:
    if error.name != "sqlalchemy":
        raise
    msg = "his_sms_async.sql needs SQLAlchemy: install his_sms_async[sql]"
    raise ModuleNotFoundError(msg, name=error.name) from None

__all__ = ["SqlStore"]
