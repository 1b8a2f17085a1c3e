"""JSON Schemas (draft 2020-12) of job files and of batchns.toml, for editors.

Made from the tables that the parsers read with; `python -m batchns.model.schema` writes them into the package. A schema
accepts a little more than the parser does: it knows neither the node nor what one key demands of another.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from batchns.model.config import Config
from batchns.model.config_table import config_table
from batchns.model.job_table import job_table

FOLDER = Path(__file__).parent.parent / "schema"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def job_schema() -> dict[str, Any]:
    """A file of one job at its top level, or of [[job]]s."""
    one = {"$ref": "#/$defs/job"}
    many = {
        "type": "object",
        "properties": {"job": {"description": "One job each.", "type": "array", "minItems": 1, "items": one}},
        "required": ["job"],
        "additionalProperties": False,
    }
    return {
        "$schema": _DIALECT,
        "title": "batchns job file",
        "if": {"required": ["job"]},
        "then": many,
        "else": one,
        "$defs": {"job": job_table(Config(), "/").schema},
    }


def config_schema() -> dict[str, Any]:
    return {"$schema": _DIALECT, "title": "batchns.toml", **config_table().schema}


def rendered() -> dict[str, str]:
    """The text of each schema file, by name."""
    schemas = {"job.schema.json": job_schema(), "config.schema.json": config_schema()}
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()}


def write(folder: Path = FOLDER) -> None:
    for name, text in rendered().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
