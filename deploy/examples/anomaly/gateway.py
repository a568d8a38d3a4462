"""How machines hand events to a gateway: batches by HTTP, which are on its disk when it answers."""

import http.client
import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

BATCH = 200  # events; each waits for the scores of those before it in its batch
ATTEMPTS = 20  # of one batch, a quarter of a second apart: a gateway that is busy answers 429 or 503
TIMEOUT_SECONDS = 60


class Refused(Exception):
    """A gateway does not take a batch."""


def batches(events: Iterable[dict[str, Any]], size: int = BATCH) -> Iterator[list[dict[str, Any]]]:
    """The events in lists of at most `size`."""
    rest = iter(events)
    while batch := list(islice(rest, size)):
        yield batch


class Sender:
    """A connection to one gateway that is kept open."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url).netloc
        self.connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_SECONDS)

    def post(self, batch: list[dict[str, Any]]) -> int:
        """Sends one batch until it is accepted; how many events that are."""
        body = json.dumps(batch, separators=(",", ":")).encode()
        reason = ""
        for _ in range(ATTEMPTS):
            try:
                self.connection.request(
                    "POST", "/v1/events", body, {"content-type": "application/cloudevents-batch+json"}
                )
                answer = self.connection.getresponse()
                text = answer.read()
            except OSError as error:
                self.connection.close()
                reason = str(error)
            else:
                if answer.status < 300:
                    return int(json.loads(text)["accepted"])
                reason = f"{answer.status} {text.decode(errors='replace')[:300]}"
                if answer.status not in (429, 503):
                    break
            time.sleep(0.25)
        raise Refused(f"{self.address} does not take events: {reason}")


def post_all(url: str, events: Iterable[dict[str, Any]]) -> int:
    """Sends all of them; how many were accepted."""
    sender = Sender(url)
    return sum(sender.post(batch) for batch in batches(events))
