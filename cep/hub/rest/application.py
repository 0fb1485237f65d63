"""The hub's ASGI application: all routes, one error shape."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import cep
from cep.errors import CepError
from cep.hub.limits import Rates, RequestLimits
from cep.hub.options import HubFiles
from cep.hub.rest import admin, endpoints, errors, functions, oauth, tasks
from cep.hub.rest.guard import Guard
from cep.hub.services import Services

# The oldest clients this hub is tested with are 2.19; 2.0 is where their wire begins.
MIN_VERSION = "2.0.0"


async def _version(_request: Request) -> Response:
    return JSONResponse(
        {
            "api": cep.__version__,
            "min_sdk_version": MIN_VERSION,
            "min_ep_version": MIN_VERSION,
        }
    )


def application(services: Services, files: HubFiles, rates: Rates | None = None) -> Starlette:
    """Build the application of a hub.

    Args:
        services: The running parts.
        files: Where the hub keeps its files.
        rates: How much clients may ask for; the defaults without it.
    """
    app = Starlette(
        routes=[
            Route("/v2/version", _version, methods=["GET"]),
            *oauth.routes,
            *endpoints.routes,
            *functions.routes,
            *tasks.routes,
            *admin.routes,
        ],
        middleware=[Middleware(Guard)],
        exception_handlers={
            CepError: errors.on_cep_error,
            HTTPException: errors.on_http_error,
            Exception: errors.on_surprise,
        },
    )
    # A redirect would be an answer in another shape, to an address that the request made up.
    app.router.redirect_slashes = False
    app.state.services = services
    app.state.files = files
    app.state.limits = RequestLimits(rates)
    return app
