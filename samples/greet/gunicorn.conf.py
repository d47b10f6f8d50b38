"""gunicorn's configuration for the sample. It reads this file when started in this folder."""

bind = "127.0.0.1:8000"
# Concurrent calls. A stream keeps its thread until it ends.
threads = 8
# Where the generated code is.
pythonpath = "gen"
# gunicorn 25 and newer would open one in the home directory, to be managed by.
control_socket_disable = True
