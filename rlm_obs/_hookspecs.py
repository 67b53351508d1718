"""The whole plugin contract on one screen: what a plugin may implement, when it is called, and what its answer means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from rlm_obs._budgets.store import Store
    from rlm_obs._record import Cost, Record, Request, Usage
    from rlm_obs._settings import Settings
    from rlm_obs._tracker import Alert

hookspec = pluggy.HookspecMarker("rlm_obs")
hookimpl = pluggy.HookimplMarker("rlm_obs")


def asleep_while(test: Callable[[], bool]) -> Callable[[Any], Any]:
    """Mark a hook's implementation as one that need not be called while `test()` is true, nor its facts be made for it."""

    def marked(function: Any) -> Any:
        function.is_asleep = test
        return function

    return marked


class Instrumentor(Protocol):
    """What makes the calls of one SDK pass our gate; both methods may be called again without harm."""

    def instrument(self) -> None: ...

    def uninstrument(self) -> None: ...


@hookspec
def register_exporters() -> Mapping[str, Callable[[Settings], SpanExporter]]:
    """Offer exporters by name, for `exporters=["name"]` and RLM_OBS_EXPORTERS; once, when plugins are loaded.

    Return: name -> a function that takes the settings and builds any OpenTelemetry SpanExporter (`rlm_obs.CallExporter`
    is one) and keeps to `rlm_obs.testing.ExporterContract`; it is called when the name is used. An exporter may have a
    method `check()`, which `rlm-obs doctor` calls: it returns what was found, or raises a ConfigError that says what to do.
    A name offered twice is a ConfigError.
    Raises: logged once; the plugin's exporters are missing, the program goes on. Speed: no I/O, import lazily.
    Since: 0.1. Example: `plugins/rlm-obs-example`.
    """
    raise AssertionError("a specification is not called")


@hookspec
def register_budget_stores() -> Mapping[str, Callable[[str], Store]]:
    """Offer budget stores by URL scheme, for `store="scheme://…"`; once, when plugins are loaded.

    Return: scheme -> a function that takes the URL and builds the store, which keeps to
    `rlm_obs.testing.StoreContract`. A scheme offered twice is a ConfigError.
    Raises: logged once; the plugin's stores are missing. Speed: no I/O, import lazily.
    Since: 0.1. Example: `rlm_obs/_budgets/plugin.py`.
    """
    raise AssertionError("a specification is not called")


@hookspec
def register_instrumentors() -> Mapping[str, Callable[[], Instrumentor]]:
    """Offer instrumentors by name: each makes one SDK's calls pass the gate; once, when plugins are loaded.

    Return: name -> a function that builds an object with `.instrument()` and `.uninstrument()`, which keeps to
    `rlm_obs.testing.InstrumentorContract`; all of them are used from the first tracer, budget or `instrument()` on. It
    may have a method `check()`, as an exporter may. A name offered twice is a ConfigError.
    Raises: logged once; that SDK's calls are not seen. Speed: no import of the SDK itself (use a post-import hook).
    Since: 0.1. Example: `rlm_obs/_instrument/openai.py`.
    """
    raise AssertionError("a specification is not called")


@hookspec
def register_commands() -> Mapping[str, Callable[..., Any]]:
    """Offer commands for `rlm-obs`: plain functions, whose signature and docstring give options and help; in the CLI only.

    Return: name -> function; what it returns is the exit code (None is 0). A name of two words is a command of a group:
    "prices show" is `rlm-obs prices show`. A name offered twice is a ConfigError.
    Raises: logged once; the plugin's commands are missing. Speed: import heavy things inside the function.
    Since: 0.1. Example: `plugins/rlm-obs-example`.
    """
    raise AssertionError("a specification is not called")


@hookspec
def register_checks() -> Mapping[str, Callable[[], str]]:
    """Offer what `rlm-obs doctor` tries, by name: a real round trip to what your plugin needs; in the CLI only.

    Return: name -> a function that returns what was found, in one line, or raises a `rlm_obs.ConfigError` that says what to
    do; neither shows a secret. Exporters and instrumentors have a method `check()` in its place; prices and stores are
    tried without one. A name offered twice is a ConfigError.
    Raises: logged once; the plugin is not tried. Speed: import heavy things inside the function; a few seconds at most.
    Since: 0.1. Example: `plugins/rlm-obs-webhook`.
    """
    raise AssertionError("a specification is not called")


@hookspec(historic=True)
def configured(settings: Settings) -> None:
    """Learn the settings: after each `instrument()`; a plugin registered later gets the call too.

    Return: nothing. Raises: logged once, the program goes on. Speed: it runs inside `instrument()`, once.
    Since: 0.1. Example: `plugins/rlm-obs-example`.
    """


@hookspec
def call_starting(request: Request) -> None:
    """See a call before anything is held or sent; raise `rlm_obs.CallRefused` to stop it.

    Return: nothing. Raises: CallRefused (and kin) reaches the user and nothing is sent; anything else is logged once
    and ignored. Speed: no I/O; it runs inside the user's call.
    Since: 0.1. Example: `docs/how-to/plugins.md`.
    """


@hookspec(firstresult=True)
def price(request: Request, usage: Usage, duration_s: float | None) -> Cost | None:
    """Price one call: before it (for the reservation, with the most it can use) and after it, with what it used.

    After the call `request.model` is the answered model and `request.params["service_tier"]` the answered tier;
    `duration_s` is how long it took, None before it.
    Return: a Cost in US dollars, or None to let the next plugin answer; the host's own charge and the user's prices
    come first, built-ins last. `rlm_obs.testing.PricesContract` holds it to all of this.
    Raises: logged once per plugin, counted, taken as None. Speed: no I/O, a few microseconds; it runs inside the call.
    Since: 0.1. Example: `plugins/rlm-obs-example`.
    """
    raise AssertionError("a specification is not called")


@hookspec
def redact(request: Request | None, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Clean what was said before it is recorded; called only when content is captured, and for captured arguments.

    `content` has `input` and `output` (messages: `role` and `parts`), `instructions` (parts), `tools` (definitions) and
    `arguments` (of a function under `@traced(capture_args=True)`, by name; `request` is None then); None is what there
    is not. Texts are cut already, a little past the limit.
    Return: the content to record; each implementation gets the answer of the one before it, the built-in comes last.
    Raises: logged once per plugin, counted; the content is dropped, the span stays. Speed: it runs when the call has
    ended, in the user's thread.
    Since: 0.1. Example: `docs/how-to/privacy.md`.
    """
    raise AssertionError("a specification is not called")


@hookspec
def call_finished(record: Record) -> None:
    """Learn of each finished call, sampled or not, refused ones too; exactly once per call.

    Return: nothing. Raises: logged once, counted; the others are still called. Speed: hand slow work to a thread.
    Since: 0.1. Example: `plugins/rlm-obs-example`.
    """


@hookspec
def budget_alert(alert: Alert) -> None:
    """Learn that a budget crossed its alert threshold or ran out; once per threshold.

    Return: nothing. Raises: logged once, counted; the others are still called. Speed: hand slow work to a thread.
    Since: 0.1. Example: `docs/how-to/plugins.md`.
    """
