"""What gunicorn serves: the service of samples/greet, and the health of the server.

There is one page to ask whether calls should come here, `/healthz`, and one to ask whether the process
answers at all, `/livez`. Nobody sets the status of the latter: a server that cannot be called for now, as its
database is away, is not to be restarted for it.
"""

from __future__ import annotations

from server import app as greet

from connect_sync.health import Health, ServingStatus
from wsgi_adapters.health import HealthWSGIApplication, Healthz
from wsgi_adapters.router import Router

# Without Watch, whose streams have no end and would hold up a server that stops: probes ask by Check.
health = Health(max_watches=0)
health.set_status(greet.path.removeprefix("/"), ServingStatus.SERVING)

app = Router(
    [greet, HealthWSGIApplication(health)],
    fallback=Healthz(health, fallback=Healthz(Health(), path="/livez")),
)
