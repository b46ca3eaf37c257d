"""What a hook that failed has said is told, but never a secret, or a part of one."""

from __future__ import annotations

import sys

import pytest

from agui_pipelines import spec
from agui_pipelines.errors import HookError
from agui_pipelines.phases import hooks
from agui_pipelines.phases.hooks import run_hook
from agui_pipelines.phases.session import Session
from agui_pipelines.spec import Hook

SECRET = "hunter2-hunter2"
URL = f"postgresql://me:{SECRET}@host/db"


@pytest.fixture
def said(tmp_path):
    """What is told of a hook that prints something and fails."""
    text = {"name": "hooked", "source": {"type": "redis_keys"}, "target": {"type": "file"}}
    session = Session.open(spec.parse(text, folder=tmp_path))

    def of(output):
        file = tmp_path / "output"
        file.write_text(output)
        code = "import sys; sys.stdout.write(open(sys.argv[1]).read()); sys.exit(1)"
        with pytest.raises(HookError) as failed:
            run_hook(session, "stop", Hook(command=[sys.executable, "-c", code, str(file)], timeout="60s"))
        return failed.value.message

    return of


@pytest.fixture
def said_tail(tmp_path):
    """The same without a process, as it is asked often."""

    def of(output):
        file = tmp_path / "output"
        file.write_text(output)
        with file.open("rb") as opened:
            return hooks._tail(opened)

    return of


def test_the_end_of_the_output_is_told_in_whole_words(said):
    told = said(" ".join(f"word{number:04}" for number in range(500)))

    words = told.partition("It said: ")[2].split()
    assert words[-1] == "word0499"
    assert len(words) > 50
    assert all(len(word) == len("word0000") for word in words)


@pytest.mark.parametrize("separator", [" ", "\n"])
@pytest.mark.parametrize("read", [2_000, 64 * 1024])
def test_no_cut_uncovers_a_password(said_tail, read, separator):
    for after in range(read - 60, read + 60):
        told = said_tail(f"{'x' * 3000} cannot reach {URL}{separator * (after - 4)}over")

        assert "hunter2" not in told
        assert told.endswith("over")


def test_a_quoted_password_with_a_blank_is_struck_too(said):
    told = said("cannot connect: host=h password='one hunter2' dbname=d")

    assert "hunter2" not in told
    assert "dbname=d" in told


def test_of_one_endless_word_nothing_is_told(said):
    assert "hunter2" not in said(f"postgresql://me:{'hunter2' * 20_000}@host/db")
