"""Django's commands for the site: `python manage.py help`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    # Where the generated code is.
    sys.path.append(str(Path(__file__).with_name("gen")))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "website.settings")
    execute_from_command_line(sys.argv)
