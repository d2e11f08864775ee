"""``tunesmith recipe``: show a recipe as it is understood, and its JSON schema."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson
from tunesmith.cli.terminal import out, out_json

app = new_app("Show a recipe, or the JSON schema for editors.")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML."""
    from tunesmith.recipe.load import recipe_json_schema

    out_json(recipe_json_schema())


@app.command()
def show(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RECIPE|KEY=VALUE", help="A recipe file, then values to change.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Check a recipe and print it with every default; `train --dry-run` also resolves what is auto."""
    from tunesmith.cli.train import build_recipe
    from tunesmith.recipe.load import dump_recipe

    recipe = build_recipe(arguments, {})
    if as_json:
        out_json(recipe.model_dump(mode="json"))
    else:
        out(dump_recipe(recipe, defaults=True).rstrip("\n"))
