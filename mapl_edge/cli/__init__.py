"""The command line. A command opens, calls one function, prints; a module here is imported with its command."""

from mapl_edge.cli.app import app, main

__all__ = ["app", "main"]
