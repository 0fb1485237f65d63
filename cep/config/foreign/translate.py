"""The keys of any published version -> today's keys, with a remark for each that is not the same.

Pure. What has no equivalent is left out; what has one, but a value that cannot be taken over, gets
a placeholder with which no endpoint starts. An engine or a provider without an equivalent is an
error, since nothing of use would be left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cep.config import retired
from cep.config.components import FAMILIES
from cep.config.composites import Block, Component, Key
from cep.config.document import Lines
from cep.config.foreign.findings import Findings, Remark, Unread
from cep.config.kinds import WrongValue
from cep.config.tables import ENGINES, TOP
from cep.config.unset import placeholder
from cep.config.walk import nearest, show, without
from cep.errors import ConfigError

#: Names under which GlobusComputeEngine was known, or that only it stands on.
_HTEX = (None, "HighThroughputEngine", "HighThroughputExecutor")
_HTEX_NOW = "GlobusComputeEngine"
_STRATEGIES = ("SimpleStrategy", "KubeSimpleStrategy")
#: Arguments of the strategies of 2.x, and what they are called in `job_status_kwargs`.
_STRATEGY_KEYS = {"max_idletime": "max_idletime", "interval": "strategy_period"}
_ONE_ENGINE = "An endpoint has one engine"
_GONE: Any = object()


def translate(document: Lines, origin: str, findings: Findings) -> dict[str, Any]:
    """Return the configuration in today's keys; what is not the same goes to the findings.

    Args:
        document: As a YAML file or a program gave it.
        origin: What to call it in messages.
        findings: Gets a remark for everything that is left out or open.

    Raises:
        ConfigError: It has no engine, or an engine or provider that cannot be had here.
    """
    translator = _Translator(findings)
    found = translator.top(document)
    if translator.hopeless:
        listed = "\n".join(f"  {problem}" for problem in translator.hopeless)
        raise ConfigError(f"The configuration {origin} cannot be imported:\n{listed}")
    return found


class _Translator:
    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.hopeless: list[Remark] = []

    # --- the parts of a configuration -------------------------------------------------------------

    def top(self, document: Lines) -> dict[str, Any]:
        """The whole file."""
        rest, engine = self._engine_of(document)
        if engine is None:
            return {}
        line = document.line_of.get("engine", document.line_of.get("executors"))
        clean = self.block(without(rest, "engine"), TOP, "", retired.TOP)
        if isinstance(engine, Lines):
            clean["engine"] = self.engine(engine, line)
        else:
            told = f"{engine.source}, which {engine.why}" if isinstance(engine, Unread) else None
            self._hopeless("engine", line, f"It is {told or show(engine)}, which is no engine.")
        return clean

    def _engine_of(self, document: Lines) -> tuple[Lines, Any]:
        """The document without its list of engines, and the engine."""
        if document.get("engine") is not None:
            return document, document["engine"]
        several = document.get("executors")
        if isinstance(several, list) and len(several) == 1:
            return without(document, "executors"), several[0]
        if isinstance(several, Lines | Unread):
            return without(document, "executors"), several
        line = document.line_of.get("executors")
        if isinstance(several, list) and several:
            kinds = ", ".join(str(_type_of(one) or show(one)) for one in several)
            reason = f"{_ONE_ENGINE}, and these are {len(several)} ({kinds}); make one for each."
        else:
            reason = f"{_ONE_ENGINE}, and this has none."
        self._hopeless("executors" if several else "engine", line, reason)
        return document, None

    def engine(self, block: Lines, line: int | None) -> dict[str, Any]:
        """The engine's block."""
        chosen = block.get("type")
        if chosen in _HTEX:
            self.findings.notes.append(
                f"engine.type: {chosen or 'an engine without a type'} is {_HTEX_NOW} now."
            )
            chosen = _HTEX_NOW
        if not isinstance(chosen, str) or chosen not in ENGINES:
            kinds = f"The engines are {', '.join(ENGINES)}."
            advice = retired.TYPES.get(str(chosen), kinds)
            self._hopeless("engine.type", line, f"{_told(chosen)} has no equivalent here. {advice}")
            return {}
        block = without(block, "type")
        if chosen == _HTEX_NOW:
            block = self._in_new_words(block)
        keys = self.block(block, ENGINES[chosen], "engine.", retired.ENGINES[chosen])
        return {"type": chosen, **keys}

    def _in_new_words(self, block: Lines) -> Lines:
        """GlobusComputeEngine's keys of older versions under their present names."""
        executor = block.get("executor")
        if isinstance(executor, Lines) and executor.get("type") in _HTEX:
            inner = without(executor, "type")
            block = without(block, "executor")
            for name, value in inner.items():
                if name not in block:
                    _put(block, name, value, inner.line_of.get(name))
        for old, new in retired.RENAMED[_HTEX_NOW].items():
            if old in block and new not in block:
                line = block.line_of.get(old)
                value = block[old]
                block = without(block, old)
                _put(block, new, value, line)
                self.findings.notes.append(f"engine.{old} is engine.{new} now.")
        if block.get("container_type") == "None":
            block = without(block, "container_type")
        return self._strategy(block)

    def _strategy(self, block: Lines) -> Lines:
        strategy, line = block.get("strategy"), block.line_of.get("strategy")
        if strategy == "htex_auto_scale":
            block = without(block, "strategy")
            _put(block, "strategy", "simple", line)
            self.findings.notes.append("engine.strategy: htex_auto_scale is simple now.")
        if not isinstance(strategy, Lines):
            return block
        block = without(block, "strategy", "job_status_kwargs")
        status = Lines()
        for name, value in strategy.items():
            at = strategy.line_of.get(name, line)
            if name in _STRATEGY_KEYS:
                _put(status, _STRATEGY_KEYS[name], value, at)
            elif name == "type" and value in _STRATEGIES:
                continue
            else:
                reason = "The strategy here scales with the waiting tasks alone."
                self._left_out(f"engine.strategy.{name}", at, reason)
        given = block.get("job_status_kwargs")
        if isinstance(given, Lines):
            for name, value in given.items():
                _put(status, name, value, given.line_of.get(name))
        if status:
            _put(block, "job_status_kwargs", status, line)
            self.findings.notes.append("engine.strategy is engine.job_status_kwargs now.")
        return block

    # --- keys and values --------------------------------------------------------------------------

    def block(
        self,
        block: Lines,
        keys: Sequence[Key],
        path: str,
        old: Mapping[str, retired.Retired] | None = None,
    ) -> dict[str, Any]:
        """One mapping, with the keys that exist today."""
        known = {key.name: key for key in keys}
        clean: dict[str, Any] = {}
        for name, line in block.repeated:
            self.findings.notes.append(f"line {line}: {path}{name} is given again; this one holds.")
        for name, value in block.items():
            at, where = block.line_of.get(name) or None, path + name
            if value is None:
                continue  # as if it were not given, in every version
            if name in known:
                found = self.value(known[name], value, where, at)
                if found is not _GONE:
                    clean[name] = found
            elif old is not None and name in old:
                self._left_out(where, at, old[name].advice)
            else:
                self._unknown(where, name, known, at)
        for key in keys:
            if key.required and key.name not in clean and key.name != "engine":
                reason = "It is needed, and is not given."
                clean[key.name] = self._open(path + key.name, None, reason, "it was not given")
        return clean

    def value(self, key: Key, value: Any, where: str, line: int | None) -> Any:
        """The value of one key, or a placeholder."""
        unread = next(_unread_in(value), None)
        if isinstance(value, Lines) and isinstance(key.kind, Component):
            return self.component(key.kind.family, value, where, line)
        if isinstance(value, Lines) and isinstance(key.kind, Block) and key.kind.keys:
            return self.block(value, key.kind.keys, where + ".") or _GONE
        if unread is not None:
            reason = f"{unread.source} (line {unread.line}) {unread.why}."
            return self._open(where, line, reason, f"it was {unread.source}")
        try:
            key.kind.clean(value)
        except WrongValue as exc:
            reason = f"{show(value)} is given, but it {exc.reason}."
            return self._open(where, line, reason, f"{show(value)} was given; it {exc.reason}")
        return value

    def component(self, family: str, block: Lines, where: str, line: int | None) -> Any:
        """A provider, launcher or address with its arguments."""
        chosen = block.get("type")
        table = FAMILIES[family]
        if not isinstance(chosen, str) or chosen not in table:
            kinds = f"The {family}s are {', '.join(table)}."
            advice = retired.TYPES.get(str(chosen), kinds)
            reason = f"{_told(chosen)} has no equivalent here. {advice}"
            if family == "provider":
                self._hopeless(f"{where}.type", line, reason)
                return _GONE
            return self._open(where, line, reason, f"it was {_told(chosen)}")
        old = retired.PROVIDER if family == "provider" else None
        return {
            "type": chosen,
            **self.block(without(block, "type"), table[chosen], where + ".", old),
        }

    # --- remarks ----------------------------------------------------------------------------------

    def _left_out(self, where: str, line: int | None, reason: str) -> None:
        self.findings.left_out.append(Remark(where, line, reason))

    def _open(self, where: str, line: int | None, reason: str, told: str) -> str:
        self.findings.to_write.append(Remark(where, line, reason))
        return placeholder(where.rpartition(".")[2], told)

    def _hopeless(self, where: str, line: int | None, reason: str) -> None:
        self.hopeless.append(Remark(where, line, reason))

    def _unknown(self, where: str, name: str, known: Mapping[str, Key], line: int | None) -> None:
        near = nearest(name, known)
        hint = f" The nearest one that exists is {near}." if near else ""
        owner = where.rpartition(".")[0] or "the top level"
        self._left_out(where, line, f"There is no such key in {owner}.{hint}")


def _unread_in(value: Any) -> Iterator[Unread]:
    if isinstance(value, Unread):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _unread_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _unread_in(item)


def _type_of(value: Any) -> Any:
    return value.get("type") if isinstance(value, Lines) else None


def _told(value: Any) -> str:
    return value.source if isinstance(value, Unread) else show(value)


def _put(block: Lines, name: str, value: Any, line: int | None) -> None:
    block[name] = value
    if line is not None:
        block.line_of[name] = line
