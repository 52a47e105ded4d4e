"""The way to a server: whose certificates are good, through which proxy, and which hosts need neither."""

import ipaddress
import ssl
from os import PathLike, fspath
from urllib.parse import urlsplit

import certifi

from ._errors import ConfigurationError, foreign
from ._hidden import Hidden

Verify = ssl.SSLContext | str | PathLike[str] | None


def build_context(verify: Verify, *, public: bool = False) -> ssl.SSLContext:
    """Make a TLS context; it reads files for 20 ms and more, so call it in a worker thread.

    Args:
        verify: A context of the user's own; the path of a file with the CA certificates to trust (PEM); or
            None for the operating system's (where hospitals install their own) and Mozilla's.
        public: Trust those besides the file's too.

    Raises:
        ConfigurationError: There is no such file, or it holds no certificates.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if verify is None or public:
        context.load_default_certs()
        context.load_verify_locations(certifi.where())
    if verify is None:
        return context
    try:
        context.load_verify_locations(fspath(verify))
    except (OSError, TypeError, ValueError) as error:  # ssl.SSLError is an OSError
        cause = foreign(error)
    else:
        return context
    msg = "verify (HIS_SMS_CA_FILE) must be a file with CA certificates in PEM form that can be read"
    raise ConfigurationError(msg) from cause


def is_untrusted(error: BaseException | None) -> bool:
    """Whether an error goes back to a certificate that is not trusted, which no repetition can mend."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def checked_proxy(address: Hidden[str | None]) -> Hidden[str | None]:
    """A proxy's address, if there is one.

    Raises:
        ConfigurationError: It is none.
    """
    if address.reveal() is not None:
        try:
            parts = Hidden(urlsplit(address.reveal() or ""))
            fine = parts.reveal().scheme in ("http", "https") and bool(parts.reveal().hostname)
        except (AttributeError, TypeError, ValueError):
            fine = False
        if not fine:
            msg = "proxy must be like http://proxy:8080"
            raise ConfigurationError(msg)
    return address


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, where neither TLS nor a proxy is needed."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
