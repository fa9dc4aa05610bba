"""How an experiment declares its settings: a dataclass, from which command line, folder names and records are made.

The value of a setting is, in this order: the one given on the command line, that of the size for this method, that of
the size, that of ``method_defaults``, the default of the field.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from .errors import CannotRun
from .value_checks import nearest

OUT = Path("results")

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class BaseSettings:
    """Base class of an experiment's settings. Its fields are made with `benchmarks.setting_fields.setting`.

    Attributes:
        help: one line about the experiment.
        revision: increased when the meaning of the settings changes, so that older results are not mixed with new ones.
        methods: names of the methods offered.
        default_methods: the methods that are compared by default.
        ensemble_methods: methods whose seeds are trained together, as an ensemble.
        sizes: size -> values of settings. The first is the default, for minutes on two cores; "published" is the
            paper's. A key (size, method) holds values for that method only.
        durations: size -> how long the default methods take, as text.
        needs: size -> what it needs that not every machine has, as text.
        method_defaults: method -> defaults that differ for it.
    """

    help: ClassVar[str]
    revision: ClassVar[int]
    methods: ClassVar[tuple[str, ...]]
    default_methods: ClassVar[tuple[str, ...]] = ("backprop", "continual_backprop")
    ensemble_methods: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[dict[Any, Values]]
    durations: ClassVar[dict[str, str]] = {}
    needs: ClassVar[dict[str, str]] = {}
    method_defaults: ClassVar[dict[str, Values]] = {}

    @classmethod
    def size_names(cls) -> tuple[str, ...]:
        """The names of the sizes, the default first."""
        return tuple(size for size in cls.sizes if isinstance(size, str))

    @classmethod
    def of(cls, method: str, size: str | None = None, **given: Any) -> Any:
        """The settings of a method.

        Args:
            method: name of the method.
            size: name of the size; None: the default size.
            given: values that take precedence.

        Raises:
            CannotRun: unknown method, size or setting; the message suggests the most similar name.
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
        """The field of that name. Raises `CannotRun` with the most similar name if there is none."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if name not in fields:
            raise CannotRun(f"unknown setting {name!r}{nearest(name, fields)}")
        return fields[name]

    def refusal(self, method: str) -> str:
        """Why ``method`` cannot run with these settings; "" if it can."""
        return ""

    def check(self, method: str) -> None:
        """Raise `CannotRun` if ``method`` cannot run with these settings."""
        if self.refusal(method):
            raise CannotRun(self.refusal(method))

    @classmethod
    def affects(cls, name: str, method: str) -> bool:
        """Whether the setting has an effect on the method."""
        methods = cls.field(name).metadata["methods"]
        return not methods or method in methods

    def affecting(self, method: str, *, tuning: bool | None = None) -> Values:
        """The settings that affect ``method``, by name. ``tuning``: only those of its tuning (True), or only the others
        (False).
        """
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if self.affects(field.name, method) and tuning in (None, field.metadata["tuning"])
            if method not in field.metadata["later"] or getattr(self, field.name) != field.default
        }

    @classmethod
    def distinguishing(cls, own: Values, others: Iterable[Values]) -> Values:
        """The settings of ``own`` that differ in any of ``others``, for a label.

        A setting that only changes the speed is named only where no other setting tells two of them apart.

        Args:
            own: settings of a method, as `affecting` returns them.
            others: further settings of this method; those that equal ``own`` do not count.
        """
        differing = [{name for name in own if other.get(name) != own[name]} for other in others]
        only_speed = {name for name in own if cls.field(name).metadata["only_speed"]}
        named = {name for names in differing for name in (names - only_speed or names)}
        return {name: value for name, value in own.items() if name in named}

    def non_default(self, method: str) -> Values:
        """Those of `affecting` that differ from the defaults of the default size."""
        standard = type(self).of(method).affecting(method)
        return {name: value for name, value in self.affecting(method).items() if value != standard.get(name)}

    def folder_name(self, experiment: str, method: str) -> str:
        """The folder's name: the method, the non-default settings, and a hash of all settings that affect the
        method.
        """
        full = [experiment, self.revision, method, self.affecting(method)]
        digest = hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()[:8]
        readable = [f"{name.replace('_', '-')}={_short(value)}" for name, value in self.non_default(method).items()]
        return "_".join([method, *(readable or ["defaults"]), digest])


def _short(value: Any) -> str:
    """A value in a folder's name: without separators, at most 40 characters (the hash tells longer ones apart)."""
    return str(value).replace("/", "-")[-40:]


def flag(name: str) -> str:
    """The command-line option of a setting."""
    return f"--{name.replace('_', '-')}"


def settings_text(values: Values) -> str:
    """Settings as text; empty values are left out."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value != "")
