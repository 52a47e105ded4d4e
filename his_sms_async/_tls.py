"""Trust in servers: one TLS context for the SMS server, and one for Azure AD."""

import ssl
from os import PathLike, fspath

import certifi

from ._errors import ConfigurationError, foreign

Verify = ssl.SSLContext | str | PathLike[str] | None


def build_context(verify: Verify) -> ssl.SSLContext:
    """Make a TLS context; it reads files for 20 ms and more, so call it in a worker thread.

    Args:
        verify: A context of the user's own; the path of a file with the only CA certificates to trust (PEM);
            or None for the operating system's (where hospitals install their own) and Mozilla's.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    if verify is None:
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
        return context
    try:
        return ssl.create_default_context(cafile=fspath(verify))
    except OSError as error:  # ssl.SSLError is one
        cause = foreign(error)
    msg = "verify (HIS_SMS_CA_FILE) must be a file with CA certificates in PEM form that can be read"
    raise ConfigurationError(msg) from cause


def is_untrusted(error: BaseException | None) -> bool:
    """Whether an error goes back to a certificate that is not trusted, which no repetition can mend."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
