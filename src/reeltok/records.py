"""What records share: late fields, batches of a `DataLoader`, pytrees.

A record that is registered here can be an item of a data set under the default collation, and goes
through `torch.utils._pytree.tree_map`, and so through whatever of torch maps over tensors.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils._pytree import GetAttrKey, register_pytree_node
from torch.utils.data._utils.collate import default_collate_fn_map

Kind = TypeVar("Kind")


def join_records(parts: Sequence[Kind]) -> Kind:
    """One record of all rows of several, whose fields are tensors, or None in each of them."""
    tables = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
    given = {name: torch.cat(row) for name, row in tables.items() if row[0] is not None}
    return type(parts[0])(**given)


class LazyField:
    """A field that may be given as a function, called when the value is first asked for."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, record: Any, owner: type) -> str | None:
        if record is None:
            return None  # the field's default
        if callable(vars(record)[self.name]):
            vars(record)[self.name] = vars(record)[self.name]()
        return vars(record)[self.name]

    def __set__(self, record: Any, value: str | Callable[[], str] | None) -> None:
        vars(record)[self.name] = value


def register(
    kind: type[Kind], *leaves: str, collate: Callable[[list[Kind]], Any] | None = None
) -> None:
    """Let torch see the fields `leaves` of a record, and make batches of such by `collate`."""

    def taken_apart(record: Kind) -> tuple[list[Any], dict[str, Any]]:
        rest = {name: value for name, value in vars(record).items() if name not in leaves}
        return [vars(record)[name] for name in leaves], rest

    def with_keys(record: Kind) -> tuple[list[tuple[Any, Any]], dict[str, Any]]:
        values, rest = taken_apart(record)
        return [(GetAttrKey(n), v) for n, v in zip(leaves, values, strict=True)], rest

    def put_together(values: Any, rest: dict[str, Any]) -> Kind:
        # Unchecked: what a map gives for a tensor may be anything, such as its shape.
        made = object.__new__(kind)
        vars(made).update(rest, **dict(zip(leaves, values, strict=True)))
        return made

    register_pytree_node(
        kind,
        taken_apart,
        put_together,
        flatten_with_keys_fn=with_keys,
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
    )
    if collate is not None:
        default_collate_fn_map[kind] = lambda batch, *, collate_fn_map=None: collate(batch)
