from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.rendering import Rendered, render

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "osai"

ALL_OPTIONS: Mapping[str, Any] = {
    "image": {"repository": "registry.example.org/osai", "tag": "1", "pullSecrets": [{"name": "pull"}]},
    "coordinator": {
        "extraArgs": ["--standby"],
        "env": {"OSAI_COORDINATOR_SERVE_QUEUE_TIMEOUT_S": 60},
        "keysSecret": "keys",
        "trustConfigMap": "trust",
        "models": ["a", "b"],
        "modelsClaim": "models",
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "osai", "operator": "Exists"}],
        "service": {"type": "LoadBalancer", "annotations": {"example.org/internal": "true"}},
        "storage": {"size": "2Gi", "className": "fast"},
    },
    "ingress": {"enabled": True, "className": "nginx", "host": "osai.example.org", "tlsSecret": "tls"},
    "nodes": {
        "replicas": 5,
        "model": "org/a",
        "weights": "/models/a",
        "gpus": 2,
        "extraArgs": ["--quantize", "int8"],
        "env": {"OSAI_NODE_JOIN_SERVE_RATE": "0"},
        "tokensSecret": "tokens",
        "storage": {"size": "200Gi", "className": "fast"},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    },
    "podDisruptionBudget": {"maxUnavailable": "20%"},
    "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"team": "apps"}}}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "keySecret": "metrics"},
}
SCENARIOS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "public": {"privateSwarm": False, "coordinator": {"requireKeys": False}},
    "all options": ALL_OPTIONS,
    "bare": {"podDisruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False}, "nodes": {"replicas": 0}},
}


@pytest.fixture(scope="session")
def rendered() -> Mapping[str, Rendered]:
    """The chart with the values of each scenario."""
    return dict(zip(SCENARIOS, render(CHART, list(SCENARIOS.values())), strict=True))


@pytest.fixture(scope="session")
def manifests(rendered: Mapping[str, Rendered]) -> Mapping[str, list[dict[str, Any]]]:
    """Its Kubernetes objects, by scenario."""
    return {
        name: [
            found
            for file, text in one.files.items()
            if not file.endswith("NOTES.txt")
            for found in yaml.safe_load_all(text)
            if found
        ]
        for name, one in rendered.items()
    }
