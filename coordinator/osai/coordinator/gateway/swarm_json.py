"""The swarm's state as JSON. Pure."""

from dataclasses import asdict
from math import isfinite

from osai.coordinator.api import ModelView, SwarmView
from osai.coordinator.gateway.errors import Json
from osai.coordinator.health.redaction import redacted


def swarm_json(view: SwarmView) -> Json:
    """`/api/v1/swarm`: the view's own fields and, for each model, whether it is covered.

    It names no node's address; `http_address` and `dht_addresses` are this coordinator's own.
    """
    body = asdict(view)
    for model, described in zip(view.models, body["models"], strict=True):
        described["covered"] = model.covered
        del described["routable"]  # a part of that
        del described["tools"]  # of use to this front door alone
    for node in body["nodes"]:
        node["uptime_s"] = node["uptime_s"] if isfinite(node["uptime_s"]) else None  # JSON has no infinity
        for said in (node, *node["spans"]):
            said.update({name: redacted(text) for name, text in said.items() if isinstance(text, str)})
    return body


def model_json(model: ModelView) -> Json:
    """One model in OpenAI's shape, with osai's own fields."""
    return {
        "id": model.model_id,
        "object": "model",
        "created": model.created_s,
        "owned_by": "osai",
        "max_model_len": model.max_context,
        "licence": model.licence,
        "signed": model.signed,
        "covered": model.covered,
    }
