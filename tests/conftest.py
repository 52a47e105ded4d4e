"""What all tests share: both async backends, and a loop that nobody may block."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Async tests run on both backends."""
    return str(request.param)


@pytest.fixture(autouse=True)
def no_blocking_call(request: pytest.FixtureRequest) -> Iterator[BlockBuster | None]:
    """A blocking call on asyncio's loop fails the test; under trio the tool finds nothing."""
    if (
        request.node.callspec.params.get("anyio_backend") != "asyncio"
        if hasattr(request.node, "callspec")
        else True
    ):
        yield None
        return
    with blockbuster_ctx("his_sms_async") as blockbuster:
        yield blockbuster
