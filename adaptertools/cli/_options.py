"""Options that every command spells the same."""

from __future__ import annotations

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as schemas/ say.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Only what was asked for.")
