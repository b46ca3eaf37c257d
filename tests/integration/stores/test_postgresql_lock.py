"""The lock of a PostgreSQL store where things are not as usual: few privileges, broken connections, open transactions."""

from __future__ import annotations

import time
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from agui_pipelines.errors import LockedError, LockLostError, StoreBusyError
from agui_pipelines.owner import Owner
from agui_pipelines.spec import PostgresConfig
from agui_pipelines.stores import postgresql_lock
from agui_pipelines.stores.postgresql import PostgresStore

LONG = 60.0


def execute(url, *statements):
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def opened(postgres_url):
    stores = []

    def open_(url=postgres_url):
        stores.append(PostgresStore(PostgresConfig.model_validate({"type": "postgresql", "connection_url": url})))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def restricted(postgres_url, opened):
    """URL for a user who may write to the tables of the store and make none."""
    opened().prepare()
    name = f"agui_test_role_{time.time_ns()}"
    execute(
        postgres_url,
        f"CREATE ROLE {name} LOGIN",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ag_states, ag_versions, ag_snapshots TO {name}",
    )
    parts = urlsplit(postgres_url)
    yield urlunsplit(parts._replace(netloc=f"{name}@{parts.hostname}:{parts.port}"))
    execute(postgres_url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def end_connections(url, application):
    """End the connections with this name, as a restart of the server would."""
    count = execute(
        url,
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
        f"WHERE application_name = '{application}' AND datname = current_database()",
    )
    assert count != [(0,)]


def test_who_may_make_no_table_holds_the_lock_by_a_connection(opened, restricted):
    holder, store, other = opened(restricted), opened(restricted), opened(restricted)
    owner = Owner.here("poor")
    lease = holder.lock(owner, LONG)
    store.fence(owner.token)
    store.set_state("a", b"{}")
    lease.renew()
    with pytest.raises(LockedError, match="'poor'"):
        other.lock(Owner.here("second"), LONG)
    with pytest.raises(LockedError, match="'poor'"):
        other.require_unlocked()

    lease.release()

    with pytest.raises(LockLostError):
        store.set_state("a", b'{"n":1}')
    assert store.get_state("a") == b"{}"
    other.require_unlocked()
    other.lock(Owner.here("second"), LONG).release()


def test_a_lock_that_is_only_a_connection_is_lost_with_it(opened, restricted, postgres_url):
    holder, store, other = opened(restricted), opened(restricted), opened(restricted)
    owner = Owner.here("poor")
    lease = holder.lock(owner, LONG)
    store.fence(owner.token)

    end_connections(postgres_url, "agui-migrate poor")

    with pytest.raises(LockLostError):
        store.set_state("a", b"{}")
    with pytest.raises(LockLostError):
        lease.renew()
    other.lock(Owner.here("second"), LONG).release()


def test_those_with_a_row_and_those_without_keep_each_other_off(opened, restricted):
    rich, poor = opened(), opened(restricted)
    lease = rich.lock(Owner.here("rich"), LONG)
    with pytest.raises(LockedError, match="'rich'"):
        poor.lock(Owner.here("poor"), LONG)
    lease.release()
    lease = poor.lock(Owner.here("poor"), LONG)
    with pytest.raises(LockedError, match="'poor'"):
        rich.lock(Owner.here("rich"), LONG)
    lease.release()
    rich.lock(Owner.here("rich"), LONG).release()


def test_a_row_outlives_the_connections_of_its_owner(opened, restricted, postgres_url):
    holder, store = opened(), opened()
    owner = Owner.here("rich")
    lease = holder.lock(owner, LONG)
    store.fence(owner.token)

    end_connections(postgres_url, "agui-migrate rich")

    store.set_state("a", b"{}")
    lease.renew()
    with pytest.raises(LockedError, match="'rich'"):
        opened(restricted).lock(Owner.here("poor"), LONG)
    lease.release()


def test_a_transaction_that_cannot_be_ended_keeps_the_lock_from_being_taken_over(
    opened, restricted, postgres_url, monkeypatch
):
    monkeypatch.setattr(postgresql_lock, "_WAIT", "1s")
    execute(postgres_url, f"GRANT CREATE ON SCHEMA public TO {urlsplit(restricted).username}")
    holder, store, other = opened(), opened(), opened(restricted)
    owner = Owner.here("rich")
    holder.lock(owner, 0.5)
    execute(postgres_url, f"GRANT ALL ON ag_locks TO {urlsplit(restricted).username}")
    store.fence(owner.token)
    with store.transaction() as transaction:
        transaction.set_state("a", b"{}")
        time.sleep(0.6)
        with pytest.raises(StoreBusyError, match="left a transaction open"):
            other.lock(Owner.here("poor"), LONG)
    assert other.get_state("a") == b"{}"
    other.lock(Owner.here("poor"), LONG).release()


def test_a_schema_with_any_name_has_a_lock_of_its_own(postgres_url, opened):
    execute(postgres_url, 'CREATE SCHEMA "a ""b"".c"')
    odd = PostgresStore(
        PostgresConfig.model_validate(
            {"type": "postgresql", "connection_url": postgres_url, "schema": 'a "b".c'},
        )
    )
    owner = Owner.here("odd")
    lease = odd.lock(owner, LONG)
    odd.prepare()
    odd.fence(owner.token)
    odd.set_state("a", b"{}")
    opened().lock(Owner.here("usual"), LONG).release()
    lease.renew()
    lease.release()
    odd.close()
