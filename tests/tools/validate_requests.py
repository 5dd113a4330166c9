"""Holds requests against the providers' published specifications, with a published validator: validate_requests.py SPECS RECORDED

SPECS is the folder of the documents; a line of RECORDED is a request as JSON: provider, method, path, headers, body (as it was sent).
Prints what is wrong with each, then counts, and ends with 1 when anything is.
"""

import json
import re
import sys
from pathlib import Path
from urllib.parse import parse_qsl

from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from werkzeug.datastructures import Headers, ImmutableMultiDict

SPECS = {
    "sendgrid": "sendgrid-mail-send.patched.json",
    "twilio": "twilio-messages.patched.json",
    "fcm": "fcm-v1.openapi.json",
}
FORM = "application/x-www-form-urlencoded"


class Recorded:
    """A request as openapi-core wants to see it."""

    def __init__(self, server, line):
        self.host_url = server
        self.path = line["path"]
        self.method = line["method"].lower()
        self.content_type = line["headers"]["content-type"].split(";")[0]
        self.body = line["body"].encode()
        self.parameters = RequestParameters(query=ImmutableMultiDict(), header=Headers(line["headers"]), cookie=ImmutableMultiDict())


def close(schema):
    """A member that the document does not have is an error, where it says which there are: else a misspelled one would pass."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            close(value)
    elif isinstance(schema, list):
        for value in schema:
            close(value)


def load(path):
    document = json.loads(path.read_text())
    close(document)
    # Whether a request was signed right is for whoever knows the credentials: the recording has none.
    for holder in [document, *(operation for path in document["paths"].values() for operation in path.values())]:
        if isinstance(holder, dict):
            holder.pop("security", None)
    return OpenAPI.from_dict(document), document["servers"][0]["url"], dict(forms(document))


def forms(document):
    """The fields of each form there is, by method and path: the validator passes over fields that it does not know."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}) if isinstance(operation, dict) else {}
            if FORM in content:
                pattern = re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path))
                yield (method, re.compile(pattern)), content[FORM]["schema"]["properties"].keys()


def unknown_fields(forms, request):
    names = {name for name, _ in parse_qsl(request.body.decode(), keep_blank_values=True)}
    for (method, pattern), fields in forms.items():
        if request.content_type == FORM and request.method == method and pattern.fullmatch(request.path):
            yield from names - fields


def main():
    folder, recorded = map(Path, sys.argv[1:3])
    specs = {provider: load(folder / name) for provider, name in SPECS.items()}
    counts = dict.fromkeys(SPECS, 0)
    failures = 0
    for number, text in enumerate(recorded.read_text().splitlines(), 1):
        line = json.loads(text)
        openapi, server, forms = specs[line["provider"]]
        request = Recorded(server, line)
        counts[line["provider"]] += 1
        for name in unknown_fields(forms, request):
            failures += 1
            print(f"line {number}: {line['provider']}: a field that is not in the document: {name}")
        for error in openapi.iter_request_errors(request):
            failures += 1
            print(f"line {number}: {line['provider']}: {error}: {error.__cause__}")
    print(json.dumps({"validated": counts, "failures": failures}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
