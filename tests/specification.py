"""The sentences, table rows and field descriptions of the specification, each under a number, in its order.

The number is the section's and a running one. A test names the sentences that it shows by
`@pytest.mark.spec("3.4", "3.5")`; `test_specification.py` fails for each that no test names.
"""

from collections.abc import Mapping

SENTENCES: Mapping[str, str] = {
    "1.1": "HIS needs to send and receive SMS messages to / from its clients.",
    "1.2": "So called SMS server is used for that purpose.",
    "1.3": "HIS sends HTTP requests to SMS server's REST API.",
    "1.4": "Content type – application/json.",
    "1.5": "There are several types of requests: a) Send SMS to client",
    "1.6": "b) Get incoming SMS from clients",
    "1.7": "c) Get hospital phone numbers",
    "2.0.1": "There are 2 possible ways of authorization.",
    "2.1.1": "HIS uses MS Azure Active Directory for authorization.",
    "2.1.2": "AADInstance https://login.microsoftonline.com/{0}",
    "2.1.3": "ClientId Some ClientId",
    "2.1.4": "ClientSecret Some client secret",
    "2.1.5": "Scope Like api://000000-000-000-0000-0000/.default",
    "2.1.6": "BaseAddress Like https://SMSServer/",
    "2.1.7": (
        "HIS uses Microsoft IConfidentialClientApplication.AcquireTokenForClient(scopes) to get AccessToken."
    ),
    "2.1.8": "HIS uses MS Azure Active Directory access tokens for authorization.",
    "2.1.9": "Tokens are sent as an authorization key in HTTP request's header.",
    "2.1.10": "Authorization : Bearer SomeAccessToken",
    "2.2.1": "HIS uses bearer tokens for authorization.",
    "2.2.2": "Tokens are sent as an authorization key in HTTP request's header.",
    "2.2.3": "Authorization : Bearer SomeToken",
    "3.1": "HTTP POST <https://SMSServer/> .",
    "3.2": (
        'Request\'s body: ``` { "Id": null, "From": "37000000001", "To": "37000000002", '
        '"Text": "Reminding, that N. SURNAME is registered on 2019-11-12 (Tu) 07:00, in 321 cab. '
        'Will You come?", "ExternalKey": 27342 }, ```'
    ),
    "3.3": "Id – SMS server unique SMS message identifier",
    "3.4": "From – hospital phone number (must be assigned by SMS provider for response messages)",
    "3.5": "To – person phone number",
    "3.6": "Text – SMS message text",
    "3.7": "ExternalKey – HIS unique SMS message identifier",
    "3.8": (
        'Response: ``` { "Data": { "Id": 623178, "CreatedAt": "2019-11-11T08:08:21.8072824+02:00" }, '
        '"Status": { "StatusCode": "OK", "ErrorCode": "OK", "ErrorMessage": null } } ```'
    ),
    "3.9": "Data: - Id – SMS server unique SMS message identifier",
    "3.10": "CreatedAt – SMS message received in SMS server",
    "3.11": "StatusCode – response HttpStatusCode (like OK, Bad Request, Internal Server Error, etc.)",
    "3.12": "ErrorCode – error code from enum (see below)",
    "3.13": "ErrorMessage – error text",
    "3.14": "OK = 1,",
    "3.15": "Internal = 500,",
    "3.16": "InvalidMessageOwner = 600,",
    "3.17": "InvalidClientNumber = 700",
    "4.1": "HIS can receive SMS messages from SMS server.",
    "4.2": (
        "Now this method is used, when HIS needs to get all incoming messages from the clients "
        "(used only type Incoming)."
    ),
    "4.3": "HTTP GET <https://SMSServer/?type=Incoming&dateFrom=2019-11-12 11:01:26.8912252>",
    "4.4": "type (Outgoing = 1, Incoming = 2)",
    "4.5": "dateFrom – SMS message change date not less than stated",
    "4.6": (
        'Response: ``` { "Data": { "Messages": [ { "Id": 531977, "From": "37000000002", "To": "37000000001", '
        '"Type": "Incoming", "CreatedAt": "2019-11-12T11:01:51.2143795", '
        '"UpdatedAt": "2019-11-12T11:01:51.2143907", "Text": "Yes", "State": "Delivered", '
        '"ReplyToMessageId": 123 }, { "Id": 531978, "From": "37000000003", "To": "37000000001", '
        '"Type": "Incoming", "CreatedAt": "2019-11-12T11:01:55.0139225", '
        '"UpdatedAt": "2019-11-12T11:01:55.0139335", "Text": "No", "State": "Delivered", '
        '"ReplyToMessageId": null } ] }, '
        '"Status": { "StatusCode": "OK", "ErrorCode": "OK", "ErrorMessage": null } } ```'
    ),
    "4.7": "Data.Messages[i]: - Id – SMS server unique SMS message identifier",
    "4.8": "From – person phone number",
    "4.9": "To – hospital phone number",
    "4.10": "Type (Outgoing = 1, Incoming = 2)",
    "4.11": "CreatedAt – SMS message created in SMS server",
    "4.12": "Updated – SMS message updated in SMS server",
    "4.13": "Text – SMS message text",
    "4.14": (
        "State – SMS message state (None, Enroute, Delivered, Expired, Deleted, Undeliverable, Accepted, "
        "Unknown, Rejected, Seen, Unsent)"
    ),
    "4.15": "ReplyToMessageId – SMS message to with was replayed",
    "4.16": "StatusCode – response HttpStatusCode (like OK, Bad Request, Internal Server Error, etc.)",
    "4.17": "ErrorCode – error code from enum (see below)",
    "4.18": "ErrorMessage – error text",
    "5.1": "HIS needs to know which phone numbers or sender names can be used for hospital.",
    "5.2": "Phone number and valid sender names must be assigned by SMS service provider.",
    "5.3": "HTTP GET <https://SMSServer/?type=Numbers>",
    "5.4": (
        'Response: ``` { "Data": { "ClientOperatorNumbers": [ '
        '{ "OperatorNumberId": 4, "Number": "37000000000" }, { "OperatorNumberId": 7, "Number": "RSL_HOSP" } ] }, '
        '"Status": { "StatusCode": "OK", "ErrorCode": "OK", "ErrorMessage": null } } ```'
    ),
    "5.5": "OperatorNumberId – SMS server unique SMS number identifier",
    "5.6": "Number – hospital phone number or valid sender name",
    "5.7": "StatusCode – response HttpStatusCode (like OK, Bad Request, Internal Server Error, etc.)",
    "5.8": "ErrorCode – error code from enum (see below)",
    "5.9": "ErrorMessage – error text",
}
