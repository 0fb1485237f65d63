"""A hub that is told to use RabbitMQ and PostgreSQL uses them, or says why not.

And no password of theirs is seen anywhere.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Connection

from cep.errors import (
    CepError,
    ConfigError,
    DataError,
    NotAllowed,
    TemporaryFailure,
    Unavailable,
)
from cep.hub import housekeeping, ledger, locks, settlement
from cep.hub.ledger import NewSubmit, NewTask
from cep.hub.postgres import PostgresDatabase, read_database_url
from cep.hub.rabbitmq import Management, RabbitAddress, check_rabbitmq
from cep.hub.schema import task_groups
from cep.hub.settlement import ArrivedResult
from cep.hub.store import Store
from cep.hub.submit import new_task_ids
from cep.hub.upsert import insert_new
from cep.wire.result import pack_result, unpack_result
from tests.integration.docker_engine import free_port
from tests.integration.hub_rig import CEP, FakeEndpoint, HubProcess, Rest
from tests.integration.postgres import Postgres
from tests.integration.rabbitmq import HUB_PASSWORD, RabbitMq
from tests.integration.scene import until

SECRETS = ("p%40ss", "p@ss", "%2Fword", "/word")


@pytest.fixture(scope="module")
def amqp(rabbitmq: RabbitMq) -> dict[str, str]:
    return {
        "CEP_HUB_AMQP_URL": rabbitmq.hub_url(),
        "CEP_HUB_AMQP_MANAGEMENT_URL": rabbitmq.management_url,
    }


@dataclass(frozen=True)
class Pair:
    """Two hubs on one RabbitMQ and one database."""

    one: HubProcess
    two: HubProcess
    database: str

    def clients(self, name: str) -> tuple[Rest, Rest]:
        """One client, at either hub."""
        here = self.one.client(name)
        return here, Rest(self.two.running["url"], here.client_id, here.secret)


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, amqp: dict[str, str]
) -> Iterator[Pair]:
    database = postgres.database()
    variables = {**amqp, "CEP_HUB_DATABASE_URL": postgres.url(database)}
    states = [tmp_path_factory.mktemp(name) / "state" for name in ("one", "two")]
    with HubProcess(states[0], variables) as one, HubProcess(states[1], variables) as two:
        yield Pair(one, two, database)


def serve_refused(
    state: Path, variables: dict[str, str], kind: type[CepError], *words: str
) -> None:
    """Starting a hub must fail with this exit code and these words, and without a password."""
    hub = HubProcess(state, variables)
    done = hub.cep("serve", "--detach", "--port", "0", check=False)
    assert done.returncode == kind.exit_code, done.stderr
    for word in words:
        assert word in done.stderr
    assert not [one for one in SECRETS if one in done.stderr + hub.log()]
    made = {file.name for file in state.iterdir()}
    assert not made & {"hub.db", "broker", "running.json"}, "nothing else is used in its place"


def test_a_hub_whose_servers_refuse_it_ends_with_a_sentence_and_uses_nothing_else(
    tmp_path: Path, postgres: Postgres, amqp: dict[str, str]
) -> None:
    database = {"CEP_HUB_DATABASE_URL": postgres.url(postgres.database())}
    wrong = {"CEP_HUB_AMQP_URL": amqp["CEP_HUB_AMQP_URL"].replace("p%40ss", "x-p%40ss")}
    serve_refused(
        tmp_path / "rabbit", {**amqp, **database, **wrong}, NotAllowed, "refuses the login"
    )
    closed = postgres.url("hub_1").replace(f":{postgres.port}/", f":{free_port()}/")
    serve_refused(
        tmp_path / "database",
        {**amqp, "CEP_HUB_DATABASE_URL": closed},
        TemporaryFailure,
        "does not answer",
    )


def test_each_way_in_which_rabbitmq_cannot_be_used_has_its_error(
    rabbitmq: RabbitMq, amqp: dict[str, str]
) -> None:
    url, management = amqp["CEP_HUB_AMQP_URL"], amqp["CEP_HUB_AMQP_MANAGEMENT_URL"]

    def check(kind: type[CepError], word: str, url: str = url, api: str = management) -> None:
        with pytest.raises(kind, match=word) as caught:
            address = RabbitAddress.of(url, api)
            check_rabbitmq(address, Management(address))
        assert not [one for one in SECRETS if one in str(caught.value)]

    closed = str(free_port())
    check(NotAllowed, "refuses the login", url.replace("p%40ss", "x-p%40ss"))
    check(TemporaryFailure, closed, api=f"http://127.0.0.1:{closed}")
    check(TemporaryFailure, "does not answer", api=f"http://127.0.0.1:{rabbitmq.port}")
    check(TemporaryFailure, closed, url.replace(f":{rabbitmq.port}/", f":{closed}/"))
    check(ConfigError, "virtual host", f"{url}-missing")
    check(ConfigError, "amqp://", url.replace("amqp://", "http://"))
    name = url.partition("//")[2].partition(":")[0]
    vhost = url.rpartition("/")[2]
    try:
        rabbitmq.management(
            "PUT", f"users/{name}", {"password": HUB_PASSWORD, "tags": "management"}
        )
        check(NotAllowed, f"(?s)administrator.*set_user_tags {name}")
        rabbitmq.management("PUT", f"users/{name}", {"password": HUB_PASSWORD, "tags": ""})
        check(NotAllowed, "administrator")
    finally:
        user = {"password": HUB_PASSWORD, "tags": "administrator"}
        rabbitmq.management("PUT", f"users/{name}", user)
    permissions = rabbitmq.management("GET", f"permissions/{vhost}/{name}")
    rabbitmq.management("DELETE", f"permissions/{vhost}/{name}")
    check(NotAllowed, "refuses user")
    names = {key: permissions[key] for key in ("configure", "write", "read")}
    rabbitmq.management("PUT", f"permissions/{vhost}/{name}", names)


def test_a_missing_permission_on_the_virtual_host_is_told(
    tmp_path: Path, rabbitmq: RabbitMq, amqp: dict[str, str]
) -> None:
    url = rabbitmq.hub_url()
    name, vhost = url.partition("//")[2].partition(":")[0], url.rpartition("/")[2]
    nothing = {"configure": "^$", "write": ".*", "read": ".*"}
    rabbitmq.management("PUT", f"permissions/{vhost}/{name}", nothing)
    hub = HubProcess(tmp_path / "state", {**amqp, "CEP_HUB_AMQP_URL": url})
    done = hub.cep("serve", "--detach", "--port", "0", check=False)
    assert done.returncode == NotAllowed.exit_code
    assert "configure access to exchange 'tasks'" in done.stderr


def test_each_way_in_which_postgresql_cannot_be_used_has_its_error(postgres: Postgres) -> None:
    database = postgres.database()
    right = postgres.url(database)

    def check(kind: type[CepError], word: str, url: str) -> None:
        with pytest.raises(kind, match=word) as caught:
            PostgresDatabase(read_database_url(url), shared=False).open()
        assert not [one for one in SECRETS if one in str(caught.value)]

    check(NotAllowed, "refuses the login", postgres.url(database, password="x p@ss/word"))
    check(ConfigError, "(?s)hub_missing.*createdb", postgres.url("hub_missing"))
    closed = right.replace(f":{postgres.port}/", f":{free_port()}/")
    check(TemporaryFailure, "does not answer", closed)
    check(ConfigError, "postgresql", right.replace("postgresql", "mysql", 1))
    postgres.query(database, "CREATE TABLE somebodys (id int)", returns=False)
    check(DataError, "not those of a hub", right)


def test_a_newer_database_is_refused_and_left_alone(postgres: Postgres) -> None:
    database = postgres.database()
    url = read_database_url(postgres.url(database))
    store = Store(PostgresDatabase(url, shared=False))
    store.open()
    store.close()
    postgres.query(database, "UPDATE meta SET value = '99' WHERE name = 'schema'", returns=False)
    with pytest.raises(DataError, match="schema 99"):
        PostgresDatabase(url, shared=True).open()
    rows = postgres.query(database, "SELECT value FROM meta WHERE name = 'schema'")
    assert rows == [("99",)]


def test_no_password_is_in_ps_in_the_log_or_in_what_the_hub_says(pair: Pair) -> None:
    hub = pair.one
    process = psutil.Process(hub.running["pid"])
    told = [
        " ".join(process.cmdline()),
        "\n".join(f"{key}={value}" for key, value in process.environ().items()),
        hub.log(),
        hub.cep("status", "--json").stdout,
        (hub.state_dir / "running.json").read_text(),
    ]
    assert not [one for one in SECRETS if one in "\n".join(told)]


def test_a_hub_in_the_foreground_hides_its_command_line(tmp_path: Path, postgres: Postgres) -> None:
    state, address = tmp_path / "state", postgres.url(postgres.database())
    with subprocess.Popen(
        [CEP, "hub", "serve", "--port", "0", "--state-dir", state, "--database-url", address],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "serves at" not in (line := process.stderr.readline()):
            assert line, "the hub ended"
        shown = " ".join(psutil.Process(process.pid).cmdline())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert "cep hub serve" in shown
    assert not [one for one in (*SECRETS, "postgresql") if one in shown]


def test_hubs_that_start_at_once_make_one_schema(postgres: Postgres) -> None:
    url = read_database_url(postgres.url(postgres.database()))
    databases = [PostgresDatabase(url, shared=True) for _ in range(6)]
    with ThreadPoolExecutor(len(databases)) as pool:
        engines = list(pool.map(lambda one: one.open(), databases))
    for one, engine in zip(databases, engines, strict=True):
        one.close()
        engine.dispose()
    keys = {one.key for one in databases}
    assert len(keys) == 1
    assert None not in keys


def test_hub_env_speaks_of_one_client_at_every_hub(pair: Pair) -> None:
    told = [hub.cep("env").stdout for hub in (pair.one, pair.two, pair.one)]
    assert len({text.partition("CLIENT_ID=")[2] for text in told}) == 1
    pair.two.cep("client", "disable", "hub-env")
    again = [hub.cep("env").stdout for hub in (pair.one, pair.two)]
    assert len({text.partition("CLIENT_ID=")[2] for text in again}) == 1
    assert again[0] != told[0]


def test_a_hub_with_its_own_broker_shares_its_database_with_none(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cep.hub.postgres._SUCCESSION_S", 1)  # the other one is not about to end
    address = postgres.url(postgres.database())
    with HubProcess(tmp_path / "first", {"CEP_HUB_DATABASE_URL": address}) as first:
        for shared in (False, True):
            with pytest.raises(Unavailable, match="in use by another hub"):
                PostgresDatabase(read_database_url(address), shared=shared).open()
        first.kill()
        first.start()  # a hub that was killed lets its successor in
        assert first.status()["clients"] == 0


def test_what_one_hub_changes_counts_at_the_other_at_once(pair: Pair) -> None:
    here, there = pair.clients("lab")
    endpoint, function_id = FakeEndpoint(here), there.function()
    endpoint.report(heartbeat_period=30)
    for rest in (here, there):
        until(lambda: rest.status_of(endpoint.id) == "online", within_s=60, what="online")  # noqa: B023
    answer = there.submit(endpoint.id, function_id, 20)
    endpoint.take(20)
    ids = answer["tasks"][function_id]
    for task_id in ids:
        for _ in range(2):  # the repeat may come to the other hub
            endpoint.result(pack_result(task_id, "00\nYQ==\n"))
    relayed = [unpack_result(body).task_id for body in here.results(answer["task_group_id"], 20)]
    assert set(relayed) <= set(ids)

    def states() -> set[str]:
        found = here("POST", "/v2/batch_status", {"task_ids": ids})["results"]
        return {str(task["status"]) for task in found.values()}

    until(lambda: states() == {"success"}, within_s=60, what="every result is stored")
    there.token = here.token  # a token of one hub is good at the other, until it is not
    assert there.send("GET", "/v2/endpoints")[0] == 200
    pair.two.cep("client", "disable", "lab")
    assert here.send("GET", "/v2/endpoints")[0] == 401
    assert here.login() == 401
    endpoint.wait_cut_off()
    pair.one.cep("client", "enable", "lab")
    assert there.login() == 200


def test_a_submit_of_a_dead_hub_is_taken_over_by_the_other_one(
    pair: Pair, postgres: Postgres, rabbitmq: RabbitMq
) -> None:
    here, there = pair.clients("cut-short")
    endpoint, function_id = FakeEndpoint(here), here.function()
    here.submit(endpoint.id, function_id)
    endpoint.take(1)
    count = f"SELECT count(*) FROM tasks WHERE endpoint_id = '{endpoint.id}'"
    # The hub cannot go on with a submit while its broker hangs; then it dies with it.
    rabbitmq.pause()
    try:
        thread = threading.Thread(target=_forgiving, args=(here, endpoint.id, function_id))
        thread.start()
        until(
            lambda: postgres.query(pair.database, count) == [(2,)],
            within_s=60,
            what="the submit is stored",
        )
        pair.one.kill()
        thread.join()
    finally:
        rabbitmq.unpause()
    # A hub is alive as long as PostgreSQL has its session, whose lock has a number of its own.
    alive = (
        f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = {locks.SPACE} "
        "AND objid::bigint BETWEEN 1 AND 2147483647 AND objsubid = 2 AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    until(
        lambda: postgres.query(pair.database, alive) == [(1,)],
        within_s=60,
        what="PostgreSQL has seen the end of the hub",
    )
    (told,) = there.submit(endpoint.id, function_id)["tasks"][function_id]
    assert postgres.query(pair.database, count) == [(2,)], "its repeat is the same submit"
    (another,) = there.submit(endpoint.id, function_id)["tasks"][function_id]
    assert another != told, "it is taken over once"
    # What became of a submit is noted once its answer is written.
    left = "SELECT count(*) FROM open_submits"
    until(lambda: postgres.query(pair.database, left) == [(0,)], within_s=60, what="none is open")
    assert {headers["task_uuid"] for headers, _ in endpoint.take(2)} == {told, another}
    endpoint.close()
    pair.one.start()


def _forgiving(rest: Rest, endpoint_id: str, function_id: str) -> None:
    with contextlib.suppress(OSError):  # the hub is killed before it answers
        rest.submit(endpoint_id, function_id)


def test_a_database_that_ends_all_sessions_is_taken_up_again(
    pair: Pair, postgres: Postgres
) -> None:
    here, there = pair.clients("patient")
    endpoint, function_id = FakeEndpoint(here), here.function()
    postgres.end_sessions()
    for rest in (here, there):
        until(
            lambda: rest.send("GET", f"/v2/functions/{function_id}")[0] == 200,  # noqa: B023
            within_s=60,
            what="the hub has its database again",
        )
        rest.submit(endpoint.id, function_id)  # with its presence shown anew
    endpoint.take(2)
    present = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid > 1000"
    assert postgres.query(pair.database, present) == [(2,)]
    endpoint.close()


def test_results_that_come_to_two_hubs_at_once_are_stored_once(postgres: Postgres) -> None:
    database = postgres.database()
    url = read_database_url(postgres.url(database))
    stores = [Store(PostgresDatabase(url, shared=True)) for _ in range(2)]
    for store in stores:
        store.open()
    try:
        names = new_task_ids(400)
        new = NewSubmit(
            "client", "site", "group", "digest", True, [NewTask(n, "f") for n in names], 1
        )
        stores[0].call_now(ledger.add_submit, new)
        # Each hub gets all of them, in batches and orders of its own.
        settled: list[settlement.Settled] = []

        def settle(store: Store, order: list[str]) -> None:
            for at in range(0, len(order), 20):
                batch = [ArrivedResult(n, "site", False, b"x") for n in order[at : at + 20]]
                settled.append(store.call_now(settlement.settle_results, batch, 2.0))

        with ThreadPoolExecutor(4) as pool:
            orders = [names, names[::-1], names[200:] + names[:200], names[1::2] + names[::2]]
            for done in [
                pool.submit(settle, stores[n % 2], order) for n, order in enumerate(orders)
            ]:
                done.result(timeout=60)
    finally:
        for store in stores:
            store.close()
    stored = postgres.query(database, "SELECT count(*), count(DISTINCT task_id) FROM results")
    assert stored == [(400, 400)]
    assert {one.task_id for part in settled for one in part.due} == set(names)
    assert not [one for part in settled for one in part.unknown]


def test_of_two_hubs_one_keeps_house_and_none_takes_a_group_that_is_used(
    postgres: Postgres,
) -> None:
    url = read_database_url(postgres.url(postgres.database()))
    stores = [Store(PostgresDatabase(url, shared=True)) for _ in range(2)]
    for store in stores:
        store.open()
    try:
        group = {"task_group_id": "idle", "owner": "c", "has_queue": True, "created_at": 1.0}
        stores[0].call_now(insert_new, task_groups, group)

        def both(connection: Connection) -> tuple[int, int]:
            first = housekeeping.forget_before(connection, 0.5)
            second = stores[1].call_now(housekeeping.forget_before, 10.0)
            return len(first.queues), len(second.queues)

        assert stores[0].call_now(both) == (0, 0), "the second one leaves it to the first"

        def used(connection: Connection) -> Future[housekeeping.Forgotten]:
            task = NewTask(new_task_ids(1)[0], "f")
            ledger.add_submit(connection, NewSubmit("c", "site", "idle", "d", True, [task], 2.0))
            return pool.submit(stores[1].call_now, housekeeping.forget_before, 10.0)

        with ThreadPoolExecutor(1) as pool:
            begun = stores[0].call_now(used)
            assert begun.result(timeout=60).queues == []
        assert stores[1].call_now(ledger.group_owner, "idle") == "c"
    finally:
        for store in stores:
            store.close()
