"""Let MSAL fetch the tokens from Azure AD: `python examples/azure_ad.py`.

MSAL is the real one; Azure AD and the SMS server are the stand-in, over TLS with a certificate of its own.
"""

import anyio

from his_sms_async import AuthenticationError, MsalAuth, SmsClient
from his_sms_async.sandbox import RunningSandbox, Sandbox


def azure_ad(server: RunningSandbox, client_secret: str) -> MsalAuth:
    """The specification's section 2.1, key by key."""
    return MsalAuth(
        aad_instance=server.aad_instance,  # the hospital's is like https://login.microsoftonline.com/{0}
        tenant="sandbox",
        client_id="his",
        client_secret=client_secret,
        scope="api://sandbox/.default",
        verify=server.ca_file,
    )


async def main(server: RunningSandbox) -> None:
    """Ask with a token, with a token that was revoked, and with a secret that is wrong."""
    sandbox = server.sandbox

    async with SmsClient(server.url, auth=azure_ad(server, "sandbox-secret"), verify=server.ca_file) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(client.list_numbers)
        print(f"30 requests at once: {sandbox.token_requests} token from Azure AD")

        sandbox.revoke_tokens()
        numbers = await client.list_numbers()
        print(f"after a 401 the token is renewed: {sandbox.token_requests} tokens so far")
        print("the hospital's numbers:", ", ".join(one.number for one in numbers))

    async with SmsClient(server.url, auth=azure_ad(server, "mistyped"), verify=server.ca_file) as client:
        try:
            await client.list_numbers()
        except AuthenticationError as error:
            print("a wrong secret:", error)


if __name__ == "__main__":
    with Sandbox(token=None).serve(tls=True) as running:
        anyio.run(main, running)
