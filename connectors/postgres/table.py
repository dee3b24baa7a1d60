"""Table: what the catalogue tells of the table that is written to, and what fits into it.

What cannot go into it is refused before the first row is written, in the user's words. It writes
nothing, and knows nothing of staging or epochs.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from psycopg import AsyncConnection, sql

from streamline.errors import ConnectorError, UsageError

_NUMBERS = {"int2", "int4", "int8", "float4", "float8", "numeric", "money", "oid"}
_TEXTS = {"text", "varchar", "bpchar", "name", "citext", "uuid", "json", "jsonb", "xml", "inet"}
_TIMES = {"timestamp", "timestamptz", "date", "time", "timetz"}
_FITS: list[tuple[Any, set[str]]] = [
    (bool, {"bool"}),
    (int, _NUMBERS),
    (float, {"float4", "float8", "numeric"}),
    (decimal.Decimal, {"float4", "float8", "numeric", "money"}),
    (bytes, {"bytea"}),
    (datetime.datetime | datetime.date | datetime.time, _TIMES),
    (uuid.UUID, {"uuid", "text", "varchar"}),
    (dict | list | tuple | msgspec.Struct, {"json", "jsonb"}),
]
_ANY_TEXT = {"text", "varchar", "bpchar", "citext"}
_COLUMNS = """
select a.attname, t.typname, t.typtype, a.attnotnull and not a.atthasdef
    and a.attidentity = '', a.attgenerated <> ''
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
_KEYS = """
select array_agg(a.attname::text) from pg_index i
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
where i.indrelid = %s and i.indisunique and i.indpred is null and i.indexprs is null
group by i.indexrelid
"""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: As in the catalogue.
        type: Name of its type: ``int8``, ``text``, ``jsonb`` ...
        builtin: It is a base type; whether a value fits others, the database says.
        required: A row without it is refused.
    """

    name: str
    type: str
    builtin: bool
    required: bool


@dataclass(frozen=True)
class Table:
    """A table, as the catalogue tells it.

    Attributes:
        name: As the user wrote it, perhaps with a schema.
        columns: By name; those that can be written.
        generated: Names of columns that the database fills in itself.
    """

    name: str
    columns: dict[str, Column]
    generated: tuple[str, ...] = ()

    @property
    def identifier(self) -> sql.Composed:
        """For statements."""
        return identifier(self.name)

    def check(self, what: str, names: Sequence[str], value: Any) -> None:
        """See that a record fits, before the first is written.

        Raises:
            UsageError: If a field has no column, a column no field, or a type does not fit.
        """
        for name in names:
            if name not in self.columns:
                raise UsageError(
                    f"{what}: table {self.name!r} has no column {name!r}; it has "
                    f"{', '.join(self.columns)}"
                )
        for column in self.columns.values():
            if column.required and column.name not in names:
                raise UsageError(
                    f"{what}: column {column.name!r} of table {self.name!r} must not be null, and "
                    f"the records have no such field; they have {', '.join(names)}"
                )
        for name, field in zip(names, fields_of(value, names), strict=True):
            column = self.columns[name]
            if column.builtin and not _fits(field, column.type):
                raise UsageError(
                    f"{what}: column {name!r} of table {self.name!r} is of type {column.type}, "
                    f"which does not take {field!r:.80} ({type(field).__name__})"
                )


def fields_of(value: Any, names: Sequence[str]) -> list[Any]:
    """Some fields of one record or dict."""
    if isinstance(value, dict):
        return [value.get(name) for name in names]
    return [getattr(value, name) for name in names]


def _fits(value: Any, kind: str) -> bool:
    if value is None or kind.startswith("_"):
        return True
    if isinstance(value, str):
        return kind not in _NUMBERS | {"bool", "bytea"}
    for kinds, allowed in _FITS:
        if isinstance(value, kinds):
            return kind in allowed or kind in _ANY_TEXT
    return True


def identifier(name: str) -> sql.Composed:
    """A table's name, perhaps with a schema in front, for statements."""
    return sql.SQL(".").join(map(sql.Identifier, name.split(".")))


async def read_table(connection: AsyncConnection[Any], what: str, name: str) -> Table:
    """What the catalogue tells of a table.

    Raises:
        ConnectorError: If there is no such table, or we may not write to it.
    """
    cursor = await connection.execute(
        "select to_regclass(%s)::oid", [identifier(name).as_string(connection)]
    )
    row = await cursor.fetchone()
    if row is None or row[0] is None:
        where = connection.info
        raise ConnectorError(
            f"{what}: there is no table {name!r} in database {where.dbname!r} at "
            f"{where.host}:{where.port}; create it, or correct table="
        )
    (oid,) = row
    allowed = await (
        await connection.execute("select has_table_privilege(%s::oid, 'insert')", [oid])
    ).fetchone()
    if allowed is not None and not allowed[0]:
        raise ConnectorError(
            f"{what}: user {connection.info.user!r} may not insert into table {name!r}; grant it"
        )
    rows = await (await connection.execute(_COLUMNS, [oid])).fetchall()
    columns = {
        column: Column(column, kind, category == "b", required)
        for column, kind, category, required, generated in rows
        if not generated
    }
    return Table(name, columns, tuple(row[0] for row in rows if row[4]))


async def check_key(
    connection: AsyncConnection[Any], what: str, table: Table, *, key: Sequence[str]
) -> None:
    """See that a unique constraint stands behind the key of an upsert.

    Raises:
        UsageError: If there is none.
    """
    oid = table.identifier.as_string(connection)
    rows = await (await connection.execute(_KEYS.replace("%s", "%s::regclass"), [oid])).fetchall()
    unique = [sorted(names) for (names,) in rows]
    if sorted(key) not in unique:
        known = "; ".join(f"({', '.join(names)})" for names in unique) or "none"
        raise UsageError(
            f"{what}: table {table.name!r} has no unique constraint on ({', '.join(key)}), which "
            f'mode="upsert" needs; it has {known}'
        )
