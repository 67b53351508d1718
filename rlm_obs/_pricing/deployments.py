"""Reads which model is behind the name of an Azure deployment, and how Microsoft bills it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlm_obs.errors import ConfigError

#: How a deployment is billed, as it stands behind the model: "gpt-4o@data-zone".
SKUS = ("global", "data-zone", "provisioned")


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is behind one name: the model; `data_zone` adds to its price, `provisioned` has none by the token."""

    model: str
    data_zone: bool = False
    provisioned: bool = False


def read_deployments(given: Mapping[str, str]) -> dict[str, Deployment]:
    """Return the deployments of a setting {"name": "model" or "model@sku"}. Raises ConfigError where it cannot be."""
    found = {}
    for name, text in given.items():
        model, at, sku = str(text).partition("@")
        if not name.strip() or not model.strip() or (at and sku not in SKUS):
            raise ConfigError(
                f'azure_deployments: {name!r} = {text!r}: give the model, such as "gpt-4o", '
                'and how it is billed, where not globally: "gpt-4o@data-zone" or "gpt-4o@provisioned"'
            )
        found[name] = Deployment(model.strip(), data_zone=sku == "data-zone", provisioned=sku == "provisioned")
    return found
