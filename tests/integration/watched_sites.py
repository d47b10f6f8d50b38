"""The service of `watched` at the root, behind a router, inside a Flask site and inside a Django site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.urls import include, path
from flask import Blueprint, Flask

from tests.integration import django_site
from tests.integration.watched import Watch, service
from wsgi_adapters.django import connect_path
from wsgi_adapters.flask import register_service
from wsgi_adapters.router import Router

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_blueprint = Blueprint("watched", __name__, url_prefix="/flask")
register_service(_blueprint, service)
_flask = Flask(__name__)
_flask.register_blueprint(_blueprint)

django_site.urlpatterns.append(path("django/", include([connect_path(service)])))

_SITES: dict[str, WSGIApplication] = {
    "router": Router([service], prefix="/router"),
    "flask": _flask,
    "django": django_site.application,
}


def _dispatch(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    site = _SITES.get(environ["PATH_INFO"].split("/")[1], service)
    return site(environ, start_response)


application = Watch(_dispatch)
