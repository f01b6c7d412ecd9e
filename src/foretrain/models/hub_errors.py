"""What errors of the hub library mean, in one line without secrets, for models and for data sets."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from foretrain.printing import without_secrets

_REASON = 200  # characters of an error that are shown
Kind = Literal["revision", "gated", "repository", "file", "uncached", "unreachable"]


class HubSays(NamedTuple):
    """An error of the hub library: its kind, and what it means, without a full stop."""

    kind: Kind  # uncached: not downloaded before, and the hub was not asked or could not be
    text: str


def hub_says(error: Exception, what: str) -> HubSays:
    """Return what an error of the hub library means. Raises it again if it is one of the disk.

    what: the kind of things that were asked for, such as "data set".
    """
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return HubSays("revision", "the hub has no such revision")
    if isinstance(error, errors.GatedRepoError):
        return HubSays("gated", "access is restricted; accept its terms on the hub and log in")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubSays("repository", "no such repository on the hub (or it is private)")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return HubSays("uncached", f"the hub cannot be reached ({reason(error.__cause__ or error)})")
    if isinstance(error, errors.EntryNotFoundError):
        return HubSays("file", f"the hub has no such {what} or file (404)")
    of_disk = isinstance(error, OSError) and error.errno is not None
    if of_disk and not isinstance(error, ConnectionError | TimeoutError):
        raise error
    # any other: the library fails in many ways on an answer that is no hub's, as a portal's page
    return HubSays("unreachable", f"the hub could not be read ({reason(error)})")


def reason(error: BaseException) -> str:
    """Return an error in a few words. A server may quote the request with the user's token, or a signed address."""
    import huggingface_hub as hub

    text = " ".join(f"{type(error).__name__}: {error}".split())
    token = hub.get_token()
    text = re.sub(r"\?\S+", "", text.replace(token, "***") if token else text)
    return without_secrets(text)[:_REASON].rstrip(".")
