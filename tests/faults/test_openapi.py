"""Requests that Schemathesis makes from the OpenAPI document: every answer is one that the document describes.

    EXAMPLES=1000 make test ARGS=tests/faults/test_openapi.py

sends so many to each route, good ones and bad ones, beside those at the limits of each field.
"""

from __future__ import annotations

import os
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import allow_header_conformance, positive_data_acceptance, unsupported_method

from tests.live import LiveServer, settings_for
from wingbeat.llm import demo_model_path
from wingbeat.server.app import build_registry, create_app
from wingbeat.server.dialects.openai_schema import MAX_COUNT

LONG = "EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("EXAMPLES", "15"))
FEW_TOKENS = 2

TOKEN_LIMITS = {
    **dict.fromkeys(("/v1/completions", "/v1/chat/completions"), "max_tokens"),
    "/v1/responses": "max_output_tokens",
}
LIGHTNING = ("/v2", "/v3", "/state", "/multi_state", "/big_batch", "/FIM", "/translate")


def document() -> dict[str, Any]:
    settings = settings_for(demo_model_path())
    return create_app(settings, build_registry(settings)).openapi()


schema = schemathesis.openapi.from_dict(document())
schema.config.phases.coverage.enabled = LONG  # thousands of requests


def generate_little(case: schemathesis.Case) -> None:
    """Without a limit an answer takes as long as the model likes. A limit that is wrong stays."""
    limit = "max_tokens" if case.path.startswith(LIGHTNING) else TOKEN_LIMITS.get(case.path)
    if limit is None or not isinstance(case.body, dict):
        return
    for name in (limit, "max_completion_tokens"):
        asked = case.body.get(name)
        if type(asked) in (int, float) and (FEW_TOKENS < asked <= MAX_COUNT or asked == -1):
            case.body[name] = FEW_TOKENS
    if case.body.get(limit) is None:
        case.body[limit] = FEW_TOKENS


def is_batch(case: schemathesis.Case) -> bool:
    """Whether this is rwkv_lightning's form of a request on OpenAI's path."""
    own = case.path == "/v1/chat/completions" and isinstance(case.body, dict)
    return own and case.body.get("contents") is not None


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=not LONG,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # a failure is shown as it is: making it smaller takes minutes
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(case: schemathesis.Case, server: LiveServer) -> None:
    if case.formatted_path == "/v1/models/":  # no id is no model's id: the list
        return
    generate_little(case)
    excluded = [positive_data_acceptance]  # no schema knows this vocabulary, or which fields exclude each other
    if case.path.startswith("/v1/responses/"):  # its address is also that of a stored response, which is a 404
        excluded += [allow_header_conformance, unsupported_method]
    reply = case.call_and_validate(base_url=server.url, excluded_checks=excluded)
    if case.path.startswith(LIGHTNING) or is_batch(case):  # whose errors are plain texts, and described as such
        return
    if reply.status_code >= 400 and case.method != "HEAD":
        assert list(reply.json()) == ["error"]
        of_ai00 = {"brief", "name"} if case.path.startswith("/api/oai") else set()
        assert set(reply.json()["error"]) == {"code", "message", "param", "type"} | of_ai00


def test_nothing_is_left_behind(server: LiveServer) -> None:
    report = server.wait_idle()
    assert (report["status"], report["running"], report["waiting"]) == ("ok", 0, 0)
    assert server.registry.models[0].client.restarts == 0
