"""`rlm_obs.context`: who a piece of work is for, on every span, record and budget below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, TypeVar

from opentelemetry import context as otel

from rlm_obs import _scope
from rlm_obs._attributes import METADATA_PREFIX, SESSION, TAGS, TENANT, USER, is_users
from rlm_obs._block import Block
from rlm_obs._decorators import Decorated, each
from rlm_obs._steps import driver
from rlm_obs.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

_tokens: ContextVar[tuple[Token[otel.Context], ...]] = ContextVar("rlm_obs_context_tokens", default=())


class context:  # noqa: N801  # a function to its users, as contextlib's classes are
    """Say for whom the work below is done: `with rlm_obs.context(user_id="u-17"):`, or `@rlm_obs.context(…)`.

    Every span and every call's record below gets it, in threads, tasks and decorated generators too, as `user.id`,
    `session.id`, `tenant.id`, `tags`, `metadata.<key>` and the free attributes by their own names; budgets may be kept
    by any of them. Names that are no identifiers go through `attributes={"order.id": 7}`. Blocks nest: the inner one
    wins, its tags are added. What is None is not said. Ids become text; a value that is no scalar nor a list of them
    becomes text. An attribute given to a span itself wins over this one.

    One object may be entered many times, by many threads. In a generator, decorate: a `with` around a `yield` holds for
    the consumer too. Raises ConfigError where `tags` is one text, where `metadata` or `attributes` is no
    mapping, and where a free name is that of a fact about a call (`gen_ai.request.model`).
    """

    def __init__(
        self,
        user_id: object = None,
        session_id: object = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        tenant_id: object = None,
        attributes: Mapping[str, Any] | None = None,
        **free: Any,
    ) -> None:
        if isinstance(tags, str | bytes) or not isinstance(tags, Iterable | None):
            raise ConfigError(f"context(tags={tags!r}): give a list, such as tags=['beta']")
        for name, given in (("metadata", metadata), ("attributes", attributes)):
            if not isinstance(given, Mapping | None):
                raise ConfigError(f"context({name}={given!r}): give a mapping, such as {name}={{'team': 'search'}}")
        ids = {USER: user_id, SESSION: session_id, TENANT: tenant_id}
        said: dict[str, Any] = {name: str(value) for name, value in ids.items() if value is not None}
        said |= {METADATA_PREFIX + str(key): value for key, value in (metadata or {}).items()}
        said |= {str(key): value for key, value in (attributes or {}).items()} | free
        for name in said:
            if not is_users(name):
                raise ConfigError(f"context({name}): this tells a fact about a call, and is not yours to say")
        self._said = {name: _plain(value) for name, value in said.items() if value is not None}
        self._tags = tuple(str(tag) for tag in tags or ())

    def _scope(self) -> otel.Context:
        said: Mapping[str, Any] = self._said
        if self._tags:
            held = _scope.current().attributes.get(TAGS, ())
            said = {**said, TAGS: tuple(dict.fromkeys((*held, *self._tags)))}
        return _scope.with_scope(_scope.widened(attributes=said))

    def __enter__(self) -> context:
        _tokens.set((*_tokens.get(), otel.attach(self._scope())))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        *others, token = _tokens.get() or (None,)  # None: entered in another context, whose own it stays
        _tokens.set(tuple(others))
        if token is not None:
            _scope.detach(token)

    def __call__(self, function: F) -> F:
        """Decorate a function of any kind, or each public method of a class."""
        decorated: F = each(function, None, lambda one, name: Decorated(one, driver(one, self)), "context")
        return decorated

    def applies(self) -> bool:
        """Tell a decorated function that there is always something to open."""
        return True

    def open(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Block:
        """Open the block of one call of a decorated function."""
        return Block(self._scope(), needs_gate=False)

    def __repr__(self) -> str:
        return f"context({', '.join([*self._said, *([TAGS] if self._tags else [])])})"  # names: values may be private


def _plain(value: Any) -> Any:
    """Return a value as an attribute may be: a scalar, a tuple of scalars, else its text."""
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(v if isinstance(v, str | bool | int | float) else str(v) for v in value)
    return str(value)
