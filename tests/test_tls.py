"""Which certificates are trusted, and how a distrusted one is told from a passing failure."""

import ssl
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from his_sms_async import ConfigurationError
from his_sms_async._tls import build_context, is_untrusted


def subjects(context: ssl.SSLContext) -> list[str]:
    """The organizations of the CA certificates that a context trusts."""
    certificates: list[dict[str, Any]] = context.get_ca_certs()
    pairs = [pair for certificate in certificates for part in certificate["subject"] for pair in part]
    return [value for name, value in pairs if name == "organizationName"]


def test_context_of_the_user_is_taken_as_it_is() -> None:
    """Whoever builds one has reasons."""
    context = ssl.create_default_context()
    assert build_context(context) is context


@pytest.mark.parametrize("kind", [str, Path])
def test_file_names_the_only_certificates_to_trust(kind: type[Any], tmp_path: Path) -> None:
    """A hospital's CA stands alone: neither the system's nor Mozilla's are trusted beside it."""
    file = tmp_path / "ca.pem"
    trustme.CA(organization_name="The Hospital").cert_pem.write_to_path(str(file))
    context = build_context(kind(file))
    assert subjects(context) == ["The Hospital"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_file_can_stand_beside_the_well_known(tmp_path: Path) -> None:
    """With `public`, a proxy that inspects traffic is trusted, and so is who is not inspected."""
    file = tmp_path / "ca.pem"
    trustme.CA(organization_name="The Hospital").cert_pem.write_to_path(str(file))
    assert {"The Hospital", "Internet Security Research Group"} <= set(subjects(build_context(file, public=True)))


def test_without_a_file_the_well_known_are_trusted() -> None:
    """The system's and Mozilla's; certificates and names are checked."""
    context = build_context(None)
    assert "Internet Security Research Group" in subjects(context)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nx\n"])
def test_file_that_cannot_be_used_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """The error names parameter and variable."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"verify \(HIS_SMS_CA_FILE\)") as caught:
        build_context(file)
    assert caught.value.__cause__ is not None


def test_directory_is_refused(tmp_path: Path) -> None:
    """A file is asked for."""
    with pytest.raises(ConfigurationError):
        build_context(tmp_path)


@pytest.mark.parametrize("verify", ["", False, True, 5, "a\0b"])
def test_what_is_neither_context_nor_file_is_refused(verify: Any) -> None:
    """`verify=False` in particular does not switch anything off, and the empty text is no system default."""
    with pytest.raises(ConfigurationError, match=r"verify \(HIS_SMS_CA_FILE\)"):
        build_context(verify)


def chained(*errors: BaseException, implicitly: bool = False) -> BaseException:
    """Errors of which each led to the one before it."""
    for error, cause in pairwise(errors):
        if implicitly:
            error.__context__ = cause
        else:
            error.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, False),
        (ssl.SSLCertVerificationError("x"), True),
        (ssl.SSLError("x"), False),
        (chained(httpx.ConnectError("x"), ssl.SSLCertVerificationError("x")), True),
        (chained(httpx.ConnectError("x"), OSError("x"), ssl.SSLCertVerificationError("x"), implicitly=True), True),
        (chained(httpx.ConnectError("x"), OSError("x")), False),
    ],
)
def test_distrust_is_found_where_it_began(*, error: BaseException | None, expected: bool) -> None:
    """However deep libraries wrap it, by cause or by context."""
    assert is_untrusted(error) is expected
