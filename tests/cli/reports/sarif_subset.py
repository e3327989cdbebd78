"""What SARIF 2.1.0 demands of the objects that we write, as a JSON Schema made by hand.

The schema of OASIS is not here, its terms being its own. Like it, this one allows no properties
but those it names: those that we use, with the types and limits that they have there.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
URI: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+$"}
COUNT: Schema = {"type": "integer", "minimum": 1}
INDEX: Schema = {"type": "integer", "minimum": 0}
LEVEL: Schema = {"enum": ["none", "note", "warning", "error"]}


def record(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties,
            "required": list(required)}  # fmt: skip


def every(items: Schema, unique: bool = False) -> Schema:
    return {"type": "array", "items": items, "uniqueItems": unique}


BAG: Schema = {"type": "object", "properties": {"tags": every(TEXT, unique=True)}}
MESSAGE = record("text", text=TEXT, markdown=TEXT)
PLACE = record(uri=URI, uriBaseId=TEXT, description=MESSAGE)
REGION = record("startLine", startLine=COUNT, startColumn=COUNT)
PHYSICAL = record("artifactLocation", artifactLocation=PLACE, region=REGION)
LOGICAL = record(fullyQualifiedName=TEXT)
LOCATION = record(physicalLocation=PHYSICAL, logicalLocations=every(LOGICAL, unique=True))
RULE = record(
    "id", id=TEXT, name=TEXT, shortDescription=MESSAGE, fullDescription=MESSAGE, help=MESSAGE,
    helpUri=URI, defaultConfiguration=record(level=LEVEL), properties=BAG,
)  # fmt: skip
NOTIFICATION = record("message", message=MESSAGE, level=LEVEL, associatedRule=record("id", id=TEXT))
RESULT = record(
    "message", ruleId=TEXT, ruleIndex=INDEX, level=LEVEL, message=MESSAGE,
    locations=every(LOCATION),
    partialFingerprints={"type": "object", "additionalProperties": TEXT},
)  # fmt: skip
DRIVER = record(
    "name", name=TEXT, semanticVersion=TEXT, informationUri=URI, rules=every(RULE, unique=True)
)
RUN = record(
    "tool",
    tool=record("driver", driver=DRIVER),
    invocations=every(
        record(
            "executionSuccessful", executionSuccessful={"type": "boolean"},
            toolExecutionNotifications=every(NOTIFICATION),
        )
    ),
    originalUriBaseIds={"type": "object", "additionalProperties": PLACE},
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results=every(RESULT),
)  # fmt: skip
LOG = record(
    "version", "runs", **{"$schema": URI, "version": {"const": "2.1.0"}, "runs": every(RUN)}
)
