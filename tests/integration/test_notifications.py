"""Notifications: what webhooks and commands are told, and that one that fails or hangs is no trouble to a migration."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agui_pipelines import spec
from agui_pipelines.errors import SpecError, StoreError
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.notify import notified, notify, settle
from agui_pipelines.phases.session import Session

PATH = "/services/hunter2-hunter2"
"""Part of an address, which is a secret."""


@dataclass
class Hook:
    """A web server that takes notifications."""

    url: str
    status: int = 200
    location: str = ""
    hold: threading.Event = field(default_factory=threading.Event)
    """Set unless answers are to wait."""
    got: list[dict] = field(default_factory=list)


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook("")
    found.hold.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.got.append({"content": content, "type": self.headers["Content-Type"], "path": self.path})
            found.hold.wait(60)
            self.send_response(found.status)
            if found.location:
                self.send_header("Location", found.location)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}{PATH}"
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield found
    found.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def opened(tmp_path):
    """A session of a migration with some notifications, and what is told to its listener."""
    notes: list[str] = []

    def of(*notifications, **changes):
        text = {"name": "told", "source": {"type": "redis_keys"}, "target": {"type": "file"}, **changes}
        migration = spec.parse({**text, "notifications": list(notifications)}, folder=tmp_path)
        return Session.open(migration, lambda progress: notes.append(progress.note), run_id="run-1")

    of.notes = notes
    return of


def test_a_webhook_is_told_what_slack_understands_and_more(hook, opened):
    session = opened({"webhook": hook.url})

    notify(session, "finish", "export", records=12_345, seconds=1.5)
    assert settle() == []

    [got] = hook.got
    assert (got["path"], got["type"]) == (PATH, "application/json; charset=utf-8")
    assert got["content"].pop("at").endswith("+00:00")
    assert got["content"] == {
        "text": "told: export is done (records 12,345, seconds 1.5).",
        "event": "finish",
        "phase": "export",
        "migration": "told",
        "source": "redis_keys",
        "target": "file",
        "run_id": "run-1",
        "records": 12345,
        "seconds": 1.5,
    }


def test_a_phase_tells_that_it_begins_and_ends_in_order(hook, opened):
    session = opened({"webhook": hook.url})

    with notified(session, "import"):
        session.ledger.record(Entry("timing", "plan", "import", outputs={"records": 3, "seconds": 0.1}))
    with notified(session, "backup"):
        pass
    settle()

    told = [got["content"] for got in hook.got]
    assert [(each["event"], each["phase"]) for each in told] == [
        ("start", "import"),
        ("finish", "import"),
        ("start", "backup"),
        ("finish", "backup"),
    ]
    assert told[1]["records"] == 3
    assert "records" not in told[3]


def test_a_failure_is_told_with_its_sentences_and_goes_on(hook, opened):
    session = opened({"webhook": hook.url})

    with pytest.raises(StoreError, match="full"), notified(session, "import"):
        raise StoreError("The disk <a&b> is full.", why="Nothing fits.", remedy="Make room.")
    with pytest.raises(KeyboardInterrupt), notified(session, "export"):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), notified(session, "export"):
        raise ZeroDivisionError("a document, perhaps")
    settle()

    failures = [got["content"] for got in hook.got if got["content"]["event"] == "failure"]
    assert failures[0]["text"] == "told: import has failed. The disk &lt;a&amp;b&gt; is full. Nothing fits. Make room."
    assert (failures[0]["error"], failures[0]["message"]) == ("StoreError", "The disk <a&b> is full.")
    assert failures[1]["message"] == "It was interrupted."
    assert "document" not in json.dumps(failures[2])


def test_a_check_that_did_not_pass_is_a_failure(hook, opened):
    session = opened({"webhook": hook.url, "on": ["finish", "failure"]})

    with notified(session, "expect_staged"):
        session.ledger.record(Entry("expect_staged", "plan", outputs={"passed": False}))
    with notified(session, "expect_staged"):
        session.ledger.record(Entry("expect_staged", "plan", outputs={"passed": True}))
    settle()

    assert [got["content"]["event"] for got in hook.got] == ["failure", "finish"]


def test_only_what_is_asked_for_is_told(hook, opened):
    session = opened({"webhook": hook.url, "on": ["failure", "cutover"]})

    notify(session, "start", "export")
    notify(session, "cutover", "cutover", step="switch", status="done")
    settle()

    assert [got["content"]["text"] for got in hook.got] == ["told: cutover (step switch, status done)."]


def test_names_that_are_no_text_are_told_all_the_same(hook, opened):
    session = opened({"webhook": hook.url, "on": ["finish"]})

    notify(session, "finish", "sync", ids=["whole", "half-\udcff"], message="half-\udcff")
    settle()

    assert [got["content"]["ids"] for got in hook.got] == [["whole", r"half-\udcff"]]


def test_a_command_reads_the_same(opened, tmp_path):
    file = tmp_path / "told.json"
    code = (
        "import json, os, sys; told = json.load(sys.stdin); told['variable'] = os.environ['AGUI_EVENT']; "
        f"json.dump(told, open({str(file)!r}, 'w'))"
    )
    session = opened({"command": [sys.executable, "-c", code], "timeout": "60s"})

    notify(session, "start", "export")
    assert settle() == []

    told = json.loads(file.read_text())
    assert (told["text"], told["variable"]) == ("told: export has begun.", "start")


def refused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def failing(hook, kind):
    """A notification that fails in some way, and what is told of it."""
    if kind == "refused":
        return {"webhook": f"http://127.0.0.1:{refused_port()}{PATH}"}, "cannot be reached: Connection refused"
    if kind == "command":
        return {"command": [sys.executable, "-c", "raise SystemExit(3)"], "timeout": "60s"}, "ended with 3"
    if kind == "missing":
        return {"command": "/nowhere/at-all"}, "cannot be started"
    if kind == "no server":
        return {"webhook": f"http://no-such-host.invalid{PATH}"}, "cannot be reached"
    if kind == "hangs":
        hook.hold.clear()
        return {"webhook": hook.url, "timeout": "200ms"}, "took longer than 0.2 seconds"
    hook.status = {"error": 500, "redirect": 302}[kind]
    hook.location = hook.url if kind == "redirect" else ""
    return {"webhook": hook.url}, f"was answered with {hook.status}"


@pytest.mark.parametrize("kind", ["error", "redirect", "hangs", "refused", "no server", "command", "missing"])
def test_one_that_fails_is_told_once_and_disturbs_nobody(hook, opened, tmp_path, kind):
    notification, told = failing(hook, kind)
    file = tmp_path / "other"
    session = opened(notification, {"command": ["/bin/sh", "-c", f"echo . >> {file}"], "timeout": "60s"})

    for _ in range(3):
        with notified(session, "export"):
            pass
    problems = settle()
    notify(session, "start", "export")

    said = [note for note in [*opened.notes, *problems, *settle()] if note]
    assert len(said) == 1
    assert told in said[0]
    assert "hunter2" not in said[0]
    assert file.read_text().split() == ["."] * 7


def test_one_that_answers_bit_by_bit_is_given_up_all_the_same(opened):
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not ended.wait(0.05):
                    connection.sendall(b"X-More: yes\r\n")

        thread = threading.Thread(target=trickle)
        thread.start()
        session = opened({"webhook": f"http://127.0.0.1:{server.getsockname()[1]}/", "timeout": "500ms"})
        notify(session, "start", "export")
        [problem] = settle()
        ended.set()
        thread.join()

    assert "took longer than 0.5 seconds" in problem


def test_nobody_waits_for_one_that_does_not_keep_up(hook, opened, monkeypatch):
    monkeypatch.setattr(
        "agui_pipelines.phases.notify.WAITING", 20
    )  # so that a busy machine has told all of them in time
    hook.hold.clear()
    session = opened({"webhook": hook.url, "timeout": "60s"})

    for _ in range(22):
        notify(session, "start", "export")

    assert any("does not keep up" in note for note in opened.notes)
    hook.hold.set()
    assert settle() == []
    assert len(hook.got) in (20, 21)


def test_secrets_are_struck_from_what_is_told(hook, opened, monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2-hunter2")
    target = {"type": "redis", "redis_options": {"password": "${REDIS_PASSWORD}"}}
    session = opened({"webhook": hook.url}, target=target)

    notify(session, "failure", "import", message="The server said: no user hunter2-hunter2.")
    settle()

    assert hook.got[0]["content"]["message"] == "The server said: no user ***."
    assert "hunter2" not in json.dumps(hook.got[0]["content"])


def test_an_address_is_a_secret(opened):
    session = opened({"webhook": f"https://hooks.example.com{PATH}"})

    migration = session.migration
    assert "hunter2" not in f"{migration.text} {migration!r} {migration.notifications}"
    assert PATH not in migration.secrets.struck_from(f"posted to https://hooks.example.com{PATH}")


@pytest.mark.parametrize(
    ("notification", "problem"),
    [
        ({"webhook": "ftp://host/hunter2"}, "this is not a URL of http or https"),
        ({"webhook": "https://"}, "this is not a URL of http or https"),
        ({"webhook": "https://host:port/hunter2"}, "this is not a URL"),
        ({"webhook": "https://host/hunter2 and more"}, "characters that have to be escaped"),
        ({"webhook": "https://host/", "command": "x"}, "a notification is"),
        ({}, "a notification is"),
        ("https://host/hunter2", "a notification is"),
        ({"command": []}, "the command is empty"),
        ({"webhook": "https://host/", "on": ["begin"]}, "start"),
        ({"webhook": "https://host/", "on": []}, "at least 1"),
        ({"webhook": "https://host/", "timeout": "0s"}, "greater than 0"),
        ({"webhook": "https://host/", "time": "1s"}, "unknown key 'time'"),
    ],
)
def test_what_is_no_notification_is_refused_without_telling_it(opened, notification, problem):
    with pytest.raises(SpecError, match=problem) as refused:
        opened(notification)
    assert "hunter2" not in str(refused.value)
