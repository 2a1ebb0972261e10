"""Bytes: what an operator moves, and what a group of operators could not avoid moving.

*Moved* is a model, not a counter of the memory bus: an operator reads each of its inputs once and writes
each of its outputs once; caches between operators are not modelled. *Compulsory* is what would be left if
the whole group were one kernel: tensors that it reads and did not make itself, and tensors that it makes and
something outside it reads.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_iter

_SELECTS = {"embedding", "gather", "index", "index_select", "take", "take_along_dim"}
"""Read as much of their first input as they return, if that is less."""
_OVERWRITES = {"copy_", "fill_", "zero_"}
"""Write their first input without reading it."""
_SCATTERS = {"index_add_", "index_copy_", "index_put_", "_index_put_impl_", "scatter_", "scatter_add_"}
"""Touch as much of their first input as they are given to put there, if that is less."""


@dataclass(frozen=True)
class Access:
    """A view of one storage that an operator reads or writes: the elements it covers, and their bytes."""

    storage: int
    capacity: int
    view: tuple[Any, ...]
    bytes: int
    lasting: bool
    """The storage was there before the step."""


@dataclass(frozen=True)
class Traffic:
    """What one operator reads and writes."""

    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return sum(access.bytes for access in (*self.reads, *self.writes))


class Storages:
    """Numbers storages for as long as it lives, so that one that takes a freed one's address is another."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.made: set[int] = set()

    def traffic(self, func: Any, args: Any, kwargs: Any, result: Any) -> Traffic | None:
        """What an operator that has just run moved; ``None`` if it only returned views of its inputs."""
        name = func._schema.name.rpartition("::")[2]
        inputs = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        mutated = list(_mutated(func, args, kwargs))
        known = {self.number(tensor) for tensor in inputs}
        outputs = [value for value in tree_iter(result) if isinstance(value, Tensor)]
        new = [tensor for tensor in outputs if self.number(tensor) not in known]
        if outputs and not new and not mutated:
            return None
        self.made.update(self.number(tensor) for tensor in new)
        written = sum(tensor.nbytes for tensor in new)
        if name in _OVERWRITES:
            inputs = inputs[1:]
        reads = [self._access(tensor) for tensor in inputs if tensor.numel()]
        writes = [self._access(tensor) for tensor in (*new, *mutated) if tensor.numel()]
        if reads and name in _SELECTS:
            reads[0] = _at_most(reads[0], written)
        if reads and name in _SCATTERS:
            given = max((access.bytes for access in reads[1:]), default=0)
            reads[0] = _at_most(reads[0], given)
            writes = [_at_most(access, given) for access in writes]
        return Traffic(tuple(reads), tuple(writes))

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor's storage. A weak reference keeps its address from being used again."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known[storage._cdata] = (StorageWeakRef(storage), len(self._known))
        return self._known[storage._cdata][1]

    def _access(self, tensor: Tensor) -> Access:
        shape = [n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step]  # not expanded
        covered = tensor.element_size()
        for n in shape:
            covered *= n
        number, capacity = self.number(tensor), tensor.untyped_storage().nbytes()
        view = (tensor.storage_offset(), *tensor.shape, *tensor.stride())
        return Access(number, capacity, view, min(covered, capacity), number not in self.made)


def compulsory(groups: Sequence[Iterable[int]], traffic: Sequence[Traffic]) -> list[int]:
    """Compulsory bytes of each group of operators, given by their indices."""
    readers: defaultdict[int, set[int]] = defaultdict(set)
    for index, moves in enumerate(traffic):
        for access in moves.reads:
            readers[access.storage].add(index)
    return [_compulsory(sorted(group), traffic, readers) for group in groups]


def _compulsory(group: list[int], traffic: Sequence[Traffic], readers: dict[int, set[int]]) -> int:
    members, made = set(group), set()
    needed: defaultdict[tuple[int, bool], dict[tuple[Any, ...], int]] = defaultdict(dict)
    capacity: dict[int, int] = {}
    for index in group:
        for access in traffic[index].reads:
            capacity[access.storage] = access.capacity
            if access.storage not in made:
                needed[access.storage, False][access.view] = access.bytes
        for access in traffic[index].writes:
            capacity[access.storage] = access.capacity
            made.add(access.storage)
            outside = readers[access.storage] - members if access.storage in readers else set()
            if access.lasting or any(reader > index for reader in outside):
                needed[access.storage, True][access.view] = access.bytes
    return sum(min(sum(views.values()), capacity[storage]) for (storage, _), views in needed.items())


def _at_most(access: Access, limit: int) -> Access:
    return Access(access.storage, access.capacity, access.view, min(access.bytes, limit), access.lasting)


def _mutated(func: Any, args: Any, kwargs: Any) -> Iterable[Tensor]:
    """Tensors among the arguments that the operator writes to."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        yield from (tensor for tensor in tree_iter(value) if isinstance(tensor, Tensor))
