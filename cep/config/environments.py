"""The published deployments of the web service, by name. Pure data.

Source: the environment tables of globus-compute-sdk 2.19.0 and 4.19.0.
"""

from __future__ import annotations

PRODUCTION = "production"
LOCAL = "local"

#: Name of the environment -> address of the web service. `local` is where a hub listens unless
#: it was told otherwise, which is the one other address that the official SDK knows.
ENVIRONMENTS: dict[str, str] = {
    PRODUCTION: "https://compute.api.globus.org",
    "preview": "https://compute.api.preview.globus.org",
    "dev": "https://api.dev.funcx.org",
    "sandbox": "https://compute.api.sandbox.globuscs.info",
    "test": "https://compute.api.test.globuscs.info",
    "integration": "https://compute.api.integration.globuscs.info",
    "staging": "https://compute.api.staging.globuscs.info",
    LOCAL: "http://localhost:5000",
}
