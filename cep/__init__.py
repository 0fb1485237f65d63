"""cep: a single-user compute endpoint, compatible with Globus Compute."""

__version__ = "0.1.0"

# The published endpoint whose behaviour and wire we speak. The service compares it with its
# `min_ep_version`, and we send it as `endpoint_version` at registration.
# Source: globus-compute-endpoint 2.19.0, the last line of the plain single-user endpoint that
# the published user guide describes.
SPOKEN_ENDPOINT_VERSION = "2.19.0"
