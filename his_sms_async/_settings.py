"""Settings from the environment, under the specification's keys (section 2)."""

import os
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sniffio

from ._auth import BearerAuth, MsalAuth
from ._errors import ConfigurationError, foreign
from ._hidden import Hidden

_PREFIX = "HIS_SMS_"
_TOKEN = "TOKEN"  # noqa: S105 - a variable's name
# The specification's AADInstance, tenant for its {0}, ClientId, ClientSecret and Scope.
_AZURE_AD = ("AAD_INSTANCE", "TENANT", "CLIENT_ID", "CLIENT_SECRET", "SCOPE")


def read_settings(overrides: Hidden[dict[str, Any]]) -> tuple[Hidden[dict[str, Any]], list[str]]:
    """Read the keyword arguments of an `SmsClient`; what `overrides` has is not looked up.

    Each variable can also stand with `_FILE` at its end and name a file that holds the value, as container
    platforms hand out secrets; surrounding white space is dropped. What is missing or wrong is told in a list,
    each by its variable's name, and replaced by something harmless, so that the rest can be checked too.
    """
    environment = _Environment()
    settings: Hidden[dict[str, Any]] = Hidden(dict(overrides.reveal()))
    for argument, name in (
        ("base_url", "BASE_ADDRESS"),
        ("server_timezone", "SERVER_TIMEZONE"),
        ("verify", "CA_FILE"),
    ):
        if argument not in overrides.reveal():
            settings.reveal()[argument] = environment.value(name).reveal()
    if not settings.reveal()["base_url"]:
        environment.problems.append(f"{_PREFIX}BASE_ADDRESS is missing")
        settings.reveal()["base_url"] = "https://missing.invalid/"
    try:
        if not in_event_loop():
            load_zone(settings.reveal()["server_timezone"])
    except ConfigurationError as error:
        environment.problems.append(str(error))
        settings.reveal()["server_timezone"] = None
    if "auth" not in overrides.reveal():
        auth = environment.auth(settings.reveal()["verify"])
        settings.reveal()["auth"] = BearerAuth("missing") if auth is None else auth
    return settings, environment.problems


def in_event_loop() -> bool:
    """Whether asyncio or trio runs this code, so that it must not read files."""
    try:
        sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return False
    return True


def load_zone(zone: ZoneInfo | str | None) -> ZoneInfo | None:
    """The zone of a name; the first time it reads a file."""
    if zone is None or isinstance(zone, ZoneInfo):
        return zone
    try:
        return ZoneInfo(zone)
    except (KeyError, OSError, TypeError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
        cause = foreign(error, message=False)
    msg = "server_timezone (HIS_SMS_SERVER_TIMEZONE) must be the name of a time zone, like Europe/Vilnius"
    raise ConfigurationError(msg) from cause


class _Environment:
    """The variables, and what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def value(self, name: str) -> Hidden[str | None]:
        """A variable's value, or its file's; None if it is not set or empty."""
        variable = _PREFIX + name
        direct, path = os.environ.get(variable), os.environ.get(f"{variable}_FILE")
        if direct and path:
            self.problems.append(f"{variable} and {variable}_FILE are both set")
        if direct or not path:
            return Hidden(direct or None)
        try:
            content = Hidden(Path(path).read_text(encoding="utf-8-sig").strip())
        except (OSError, ValueError):
            self.problems.append(f"{variable}_FILE names a file that cannot be read")
            return Hidden(None)
        if not content.reveal():
            self.problems.append(f"{variable}_FILE names an empty file")
        return Hidden(content.reveal() or None)

    def auth(self, ca_file: Any) -> BearerAuth | MsalAuth | None:
        """The one kind of authorization that is set, or None and a problem."""
        token = self.value(_TOKEN)
        azure_ad = {name: self.value(name) for name in _AZURE_AD}
        given = [name for name in _AZURE_AD if azure_ad[name].reveal()]
        if token.reveal() and given:
            self.problems.append(
                f"{_PREFIX}TOKEN and {_PREFIX}{given[0]} are both set; set one kind of authorization"
            )
            return None
        if not token.reveal() and not given:
            self.problems.append(f"{_PREFIX}TOKEN is missing, or {_PREFIX}CLIENT_ID and the others for Azure AD")
            return None
        needed = ["CLIENT_ID", "CLIENT_SECRET", "SCOPE"]
        if "{0}" in (azure_ad["AAD_INSTANCE"].reveal() or "{0}"):  # the default has a place for the tenant
            needed.append("TENANT")
        missing = [f"{_PREFIX}{name}" for name in needed if name not in given]
        if given and missing:
            self.problems += [f"{variable} is missing" for variable in missing]
            return None
        try:
            if given:
                options: Hidden[dict[str, Any]] = Hidden({name.lower(): azure_ad[name].reveal() for name in given})
                return MsalAuth(verify=ca_file, **options.reveal())
            return BearerAuth(token.reveal() or "")
        except ConfigurationError as error:
            self.problems.append(str(error))
            return None
