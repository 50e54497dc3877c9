"""The OpenAPI document against the front door: schemathesis asks what the document allows, and what it does not."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from prometheus_client import CollectorRegistry
from schemathesis import checks

from gateway.fake_generations import FakeGenerations, example_model, example_swarm
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.tool_calls.style import ToolStyle

VIEW = example_swarm(models=(example_model(tools=ToolStyle(format="hermes")),))
APP = create_app(
    FakeGenerations(view=VIEW), metrics=Metrics(CollectorRegistry()), random_bits=lambda _num_bits: 5, clock=lambda: 0.0
)
# Its own tour of all bounds asks each endpoint some 800 times: what test_parameters and test_compatibility do in less.
CONFIG = schemathesis.Config.from_dict({"phases": {"coverage": {"enabled": False}}})
PATHS = r"^/(v1|api/v1/swarm|metrics)"
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP, config=CONFIG).include(path_regex=PATHS)
# Parameters depend on each other (max_tokens or max_completion_tokens) in ways that the document does not say.
LEFT_OUT = [checks.positive_data_acceptance]


@SCHEMA.parametrize()
@settings(max_examples=15, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
def test_the_front_door_is_as_its_document_says(case: "schemathesis.Case[Any]") -> None:
    case.call_and_validate(excluded_checks=LEFT_OUT)
