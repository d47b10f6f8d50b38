"""What all gunicorns of the tests have in common. A setting that an older gunicorn lacks is ignored."""

control_socket_disable = True
graceful_timeout = 5
keepalive = 60
