from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def test_every_requirement_is_pinned_to_a_version_that_it_allows(root: Path, project: Mapping[str, Any]) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins)
    assert all(str(pin.specifier) == f"=={versions[canonicalize_name(pin.name)]}" for pin in pins)
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [Requirement(line) for group in groups for line in group]
    wrong = [
        str(requirement)
        for requirement in requirements
        if requirement.name != "osai"
        and not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0"))
    ]
    assert not wrong
