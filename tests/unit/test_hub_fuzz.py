"""Whatever a client sends is answered with 2xx or 4xx in the error shape, never with 5xx."""

from __future__ import annotations

import json
import tempfile
import uuid
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.hub_rig import ARGUMENTS, Hub, run

SOME_ID = str(uuid.UUID(int=7))
FIELDS = (
    *("endpoint_name", "display_name", "metadata", "multi_user", "public", "allowed_functions"),
    *("admins", "subscription_uuid", "function_name", "function_code", "serialized", "meta"),
    *("description", "tasks", "task_group_id", "create_queue", "resource_specification"),
    *("user_endpoint_config", "result_serializers", "task_ids", "func", "name", SOME_ID),
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
    | st.sampled_from((SOME_ID, ARGUMENTS, "3\n01\n", "\x00", "x" * 5000))
    | st.sampled_from((10**400, -(10**400), json.loads("[" * 90 + "]" * 90)))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8)
ROUTES = (
    ("POST", "/v3/endpoints"),
    ("PUT", f"/v3/endpoints/{SOME_ID}"),
    ("POST", "/v3/functions"),
    ("POST", f"/v3/endpoints/{SOME_ID}/submit"),
    ("POST", f"/v2/endpoints/{SOME_ID}/whitelist"),
    ("POST", "/v2/batch_status"),
    ("POST", "/v2/oauth2/token"),
    ("POST", "/v2/oauth2/token/revoke"),
)
QUERIES = st.tuples(
    st.sampled_from(
        (
            "/v2/endpoints?role=",
            "/v2/api/identities?ids=",
            "/v2/api/identities?usernames=",
            "/v2/endpoints/",
            "/v2/functions/",
            "/v2/tasks/",
            "/v2/taskgroup/",
            f"/v2/endpoints/{SOME_ID}/status?",
        )
    ),
    # As bytes in percent signs, which need not be UTF-8, and as the characters themselves.
    st.binary(max_size=30).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw))
    | st.text(st.characters(max_codepoint=255), max_size=30)
    | st.sampled_from((SOME_ID, "any", "&&=;", "," * 5000, "../" * 9)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    objects=st.lists(st.tuples(st.sampled_from(ROUTES), BODIES), min_size=10, max_size=30),
    noise=st.lists(st.tuples(st.sampled_from(ROUTES), st.binary(max_size=60)), max_size=10),
    queries=st.lists(QUERIES, max_size=5),
)
def test_no_body_and_no_query_makes_the_hub_fail(
    objects: list[tuple[tuple[str, str], Any]],
    noise: list[tuple[tuple[str, str], bytes]],
    queries: list[tuple[str, str]],
) -> None:
    async def work(hub: Hub) -> None:
        await hub.call("PUT", f"/v3/endpoints/{SOME_ID}", {"endpoint_name": "site"})
        for (method, path), content in (*objects, *noise):
            answer = await hub.call(method, path, content)
            assert answer.status < 500, (method, path, content)
            if answer.status >= 400:
                assert isinstance(answer.json["code"], str)
        for path, odd in queries:
            answer = await hub.call("GET", path + odd)
            assert answer.status < 500, (path, odd)

    with tempfile.TemporaryDirectory() as directory:
        run(work, Path(directory))
