"""The command line. A command opens, calls one function, prints; each module here adds its commands to the app."""

# The order of the modules is the order of the commands in --help.
# isort: off
from mapl_edge.cli.app import app, main
from mapl_edge.cli import capture, make, limits, teach, station, records, measure, report, rehearse
# isort: on

__all__ = ["app", "capture", "limits", "main", "make", "measure", "records", "rehearse", "report", "station", "teach"]
