"""Which version is upgraded to which, and by which way."""

from __future__ import annotations

import pytest

from agui_pipelines.errors import RefusedError, UsageError
from agui_pipelines.upgrade import versions
from agui_pipelines.upgrade.steps import step


@pytest.mark.parametrize(
    ("version", "to", "way"),
    [
        ("1.0.0", "1.1.0", "1.0.0 → 1.1.0"),
        ("1.0.0", "1.1.1", "1.0.0 → 1.1.0 → 1.1.1"),
        ("1.0.0", "1.2.0", "1.0.0 → 1.1.0 → 1.2.0"),
        ("1.1.0", "1.1.1", "1.1.0 → 1.1.1"),
        ("1.1.0", "1.2.0", "1.1.0 → 1.2.0"),
        ("1.1.1", "1.2.0", "1.1.1 → 1.2.0"),
        ("2.0.0", "2.1.0", "2.0.0 → 2.1.0"),
    ],
)
def test_automatic_upgrades_chain(version, to, way):
    assert versions.told(versions.path(version, to)) == way


def test_every_step_has_a_module_that_says_what_it_does():
    for version, to in versions.STEPS:
        assert step(version, to).SUMMARY


@pytest.mark.parametrize(
    ("version", "newest"),
    [("1.0.0", "1.2.0"), ("1.1.0", "1.2.0"), ("1.2.0", "1.2.0"), ("2.0.0", "2.1.0"), ("2.1.0", "2.1.0")],
)
def test_the_newest_version_is_the_one_that_is_reached_automatically(version, newest):
    assert versions.newest(version) == newest


@pytest.mark.parametrize("version", versions.VERSIONS)
def test_a_store_that_is_there_needs_no_step(version):
    assert versions.path(version, version) == ()


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.1.1", "1.2.0"])
def test_a_major_upgrade_is_refused_with_the_way_that_works(version):
    with pytest.raises(RefusedError) as refused:
        versions.path(version, "2.1.0")
    assert f"{version} to 2.0.0 by a migration whose transforms contain format_1_to_2" in refused.value.remedy
    assert "then 2.0.0 → 2.1.0 by agui-migrate upgrade" in refused.value.remedy
    with pytest.raises(RefusedError) as refused:
        versions.path(version, "2.0.0")
    assert "agui-migrate upgrade" not in refused.value.remedy


@pytest.mark.parametrize(("version", "to"), [("2.1.0", "2.0.0"), ("1.2.0", "1.1.1"), ("2.0.0", "1.2.0")])
def test_a_downgrade_is_refused(version, to):
    with pytest.raises(RefusedError, match="would be a downgrade") as refused:
        versions.path(version, to)
    assert "agui-migrate backup restore" in refused.value.remedy


@pytest.mark.parametrize(("text", "version"), [("1.0", "1.0.0"), ("2.1", "2.1.0"), ("1.1.1", "1.1.1")])
def test_a_version_may_be_written_without_its_last_number(text, version):
    assert versions.parsed(text, where="here") == version
    assert versions.asked(text, "--to") == version


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9.9", "of version 9.9, which is not known"),
        ("", "damaged"),
        ("\\x00", "damaged"),
        ("two", "damaged: it says 'two'"),
    ],
)
def test_an_unknown_or_damaged_marker_is_told(text, said):
    with pytest.raises(RefusedError, match="here") as refused:
        versions.parsed(text, where="here")
    assert said in refused.value.message


def test_an_unknown_version_cannot_be_asked_for():
    with pytest.raises(UsageError, match=r"--to is '9\.9'"):
        versions.asked("9.9", "--to")
