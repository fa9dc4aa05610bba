"""How an experiment declares its settings: one dataclass gives the command line, the names of runs and the records.

The value of a setting is the first of these that says something: the command line, the size for this method, the
size, what differs for the method, the default of the field.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.errors import CannotRun
from benchmarks.value_checks import nearest

OUT = Path("results")

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class BaseSettings:
    """What the settings of an experiment derive from; their fields are made with `benchmarks.setting_fields.option`.

    Attributes:
        help: one line about the experiment.
        revision: raised when what the settings mean changes, so that older results keep apart.
        methods: names of the methods offered.
        default_methods: those that are compared when nothing is said.
        together: methods whose seeds are trained together, as an ensemble.
        sizes: size -> values of settings. The first is the default, for two cores and some minutes; "published" is
            the paper's. A key (size, method) holds values for that method alone.
        times: size -> how long the default methods take, in words.
        by_method: method -> values that differ for it.
    """

    help: ClassVar[str]
    revision: ClassVar[int]
    methods: ClassVar[tuple[str, ...]]
    default_methods: ClassVar[tuple[str, ...]] = ("backprop", "continual_backprop")
    ensemble_methods: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[dict[Any, Values]]
    durations: ClassVar[dict[str, str]] = {}
    method_defaults: ClassVar[dict[str, Values]] = {}

    @classmethod
    def size_names(cls) -> tuple[str, ...]:
        """The sizes there are, the default first."""
        return tuple(size for size in cls.sizes if isinstance(size, str))

    @classmethod
    def of(cls, method: str, size: str | None = None, **given: Any) -> Any:
        """The settings of a method: of that size (None: the default), but for what is given.

        Raises:
            CannotRun: unknown method, size or setting; the nearest known one is offered.
        """
        size = cls.size_names()[0] if size is None else size
        for what, name, known in (("method", method, cls.methods), ("size", size, cls.size_names())):
            if name not in known:
                raise CannotRun(f"unknown {what} {name!r}{nearest(name, known)}")
        for name in given:
            cls.field(name)
        of_size, of_both = cls.sizes[size], cls.sizes.get((size, method), {})
        return cls(**{**cls.method_defaults.get(method, {}), **of_size, **of_both, **given})

    @classmethod
    def field(cls, name: str) -> dataclasses.Field[Any]:
        """The field of that name; `CannotRun` offers the nearest where there is none."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if name not in fields:
            raise CannotRun(f"unknown setting {name!r}{nearest(name, fields)}")
        return fields[name]

    @classmethod
    def affects(cls, name: str, method: str) -> bool:
        """Whether the setting has an effect on the method."""
        methods = cls.field(name).metadata["methods"]
        return not methods or method in methods

    def affecting(self, method: str, *, tuning: bool | None = None) -> Values:
        """The settings that have an effect on ``method``, by name; only (or all but) those of its tuning on demand."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if self.affects(field.name, method) and tuning in (None, field.metadata["tuning"])
        }

    def non_default(self, method: str) -> Values:
        """Those of `affecting` that are not as they are when nothing is said."""
        standard = type(self).of(method).affecting(method)
        return {name: value for name, value in self.affecting(method).items() if value != standard[name]}

    def folder_name(self, experiment: str, method: str) -> str:
        """A folder's name: readable (what differs from the defaults), and never the same for different settings (a
        hash of all).
        """
        full = [experiment, self.revision, method, self.affecting(method)]
        digest = hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()[:8]
        readable = [f"{name.replace('_', '-')}={_short(value)}" for name, value in self.non_default(method).items()]
        return "_".join([method, *(readable or ["defaults"]), digest])


def _short(value: Any) -> str:
    """A value in a folder's name: no separators, not endless (the hash tells long ones apart)."""
    return str(value).replace("/", "-")[-40:]


def flag(name: str) -> str:
    """How a setting is written on the command line."""
    return f"--{name.replace('_', '-')}"


def settings_text(values: Values) -> str:
    """Settings for a sentence; what is empty (no folder given) is not spoken of."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value != "")
