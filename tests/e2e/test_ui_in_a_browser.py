"""A person's clicks in the UI, in a real browser: Chromium, named by CHROMIUM_PATH or found on PATH.

The pictures of the README are made by this test, of the definitions as they are then:

    AGUI_SCREENSHOTS=docs/images pytest -n0 tests/e2e/test_ui_in_a_browser.py
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e.operated import CHECKOUT, awaited, operated
from tests.partitions import RANGES

LOADED = 30_000
"""Milliseconds that a page may take to show something."""
MIGRATED = 300_000
"""And a backfill: its daemon looks every half a minute, and four runs follow each other."""


def chromium() -> str | None:
    return os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def page():
    browser_path = chromium()
    if browser_path is None:
        pytest.skip("no chromium: install it (apt-get install chromium), or name one by CHROMIUM_PATH")
    rights = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to make its sandbox as root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=rights)
        page = browser.new_page(viewport={"width": 1500, "height": 680}, device_scale_factor=1.5)
        page.set_default_timeout(LOADED)
        yield page
        browser.close()


def pictured(page: Page, name: str) -> None:
    """Saves a picture of a page if the environment asks for it."""
    if folder := os.environ.get("AGUI_SCREENSHOTS"):
        page.mouse.move(0, 0)
        page.wait_for_timeout(2_000)  # for what moves into its place
        file = CHECKOUT / Path(folder) / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=file)


def unfolded(page: Page) -> None:
    """The graph of all assets, with its groups unfolded and the navigation hidden. The browser remembers both."""
    page.get_by_role("button", name="Materialize all").wait_for()
    page.get_by_text("Hide navigation").click()
    page.keyboard.press("Alt+e")
    page.get_by_text("validation_report").first.wait_for()


def fitted(page: Page) -> None:
    """The same as large as it gets: without the list beside it, and drawn anew."""
    last = page.get_by_text("validation_report").first
    last.wait_for()
    page.locator("//input[starts-with(@placeholder, 'Jump to')]/following::button[1]").click()
    page.keyboard.press("Alt+e")
    last.wait_for(state="hidden")
    page.keyboard.press("Alt+e")
    last.wait_for()


def launched(page: Page, button: str, ranges: str) -> None:
    """Materializes what a page is about, over all key ranges or a single one."""
    page.get_by_role("button", name=button).first.click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize")
    if ranges == "All":
        dialog.get_by_text("All", exact=True).click()
    else:
        dialog.get_by_text("Select a partition").click()
        page.get_by_role("menuitem").filter(has_text=ranges).click()
        dialog.get_by_text("Launch runs to materialize").click()  # which closes the list
    dialog.get_by_role("button", name="Launch").click()
    dialog.wait_for(state="hidden")


@pytest.mark.timeout(600)
def test_a_migration_is_run_by_clicks(page, legacy, written, text, documents, postgres_url, tmp_path):
    with operated(written(text), tmp_path / "home") as ui:
        page.goto(f"{ui.address}/asset-groups")
        unfolded(page)
        launched(page, "Materialize all", "All")
        page.goto(f"{ui.address}/runs")
        expect(page.get_by_text("Success", exact=True)).to_be_visible(timeout=MIGRATED)
        moved = documents()
        page.goto(f"{ui.address}/asset-groups")
        fitted(page)
        pictured(page, "graph")

        page.set_viewport_size({"width": 1300, "height": 1000})
        page.goto(f"{ui.address}/assets/validation_report")
        expect(page.get_by_text("migrated_states").first).to_be_visible()
        pictured(page, "validation")
        page.get_by_role("tab", name="Checks").click()
        expect(page.get_by_text("Passed", exact=True).first).to_be_visible()

        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DELETE FROM ag_states WHERE state_id IN ('00', '20')")
        page.goto(f"{ui.address}/assets/target_states")
        launched(page, "Materialize", RANGES[2])
        awaited(lambda: "20" in documents())
        repaired = documents()

    assert moved == {f"{number:02}": {"number": number} for number in range(30)}
    assert set(moved) - set(repaired) == {"00"}  # which is of another key range
