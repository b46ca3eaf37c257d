"""Who is told of a migration's events, as it stands in a migration file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, SecretStr, Tag, field_validator

from agui_pipelines.spec.hooks import Command
from agui_pipelines.spec.section import Period, Section

Event = Literal["start", "finish", "failure", "cutover"]
"""A phase begins, ends well, fails; a cutover takes a step."""

_EVENTS: tuple[Event, ...] = get_args(Event)


class WebhookNotification(Section):
    """An address that takes a POST of JSON as Slack does. The address is a secret: who knows it may write there."""

    webhook: SecretStr
    on: tuple[Event, ...] = Field(_EVENTS, min_length=1)
    timeout: Period = Field(10.0, gt=0)
    """Seconds after which a delivery is given up."""

    @field_validator("webhook")
    @classmethod
    def _of_the_web(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("this is not a URL: it holds characters that have to be escaped")
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 - raises for one that is no number
        except ValueError:
            raise ValueError("this is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("this is not a URL of http or https")
        return value


class CommandNotification(Command):
    """A command, which reads the same JSON from its standard input."""

    on: tuple[Event, ...] = Field(_EVENTS, min_length=1)
    timeout: Period = Field(10.0, gt=0)


def _kind(value: Any) -> str | None:
    if isinstance(value, WebhookNotification | CommandNotification):
        return "webhook" if isinstance(value, WebhookNotification) else "command"
    if isinstance(value, Mapping):
        found = {"webhook", "command"} & set(value)
        return found.pop() if len(found) == 1 else None
    return None


Notification = Annotated[
    Annotated[WebhookNotification, Tag("webhook")] | Annotated[CommandNotification, Tag("command")],
    Discriminator(
        _kind,
        custom_error_type="no_notification",
        custom_error_message="a notification is {webhook: URL} or {command: …}, with `on` and `timeout` besides",
    ),
]
