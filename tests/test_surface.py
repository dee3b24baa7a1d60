"""The public names: what they are, that they are documented, and that their examples run."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import streamline

PLACES = (
    *("streamline", "streamline.testing", "streamline.testing.services"),
    *(
        f"streamline.connectors.{one}"
        for one in ["collection", "datagen", "files", "kafka", "postgres"]
    ),
    "streamline.connectors.stdout",
)
"""Where the public names are: those in ``__all__``, or else the classes made there."""
EACH_METHOD = {"Job", "Stream", "KeyedStream", "WindowedStream"}
"""Classes of which every method has an example of its own."""
WITHOUT_EXAMPLE = {
    # No docstrings of their own: a text, and the name of a union of types.
    *("__version__", "ScriptItem"),
    # What a connector may do beyond what it must.
    *("Source.adopt", "FileSource.adopt", "SourceReader.watermark", "SourceReader.lag"),
    *("SourceReader.lag_bytes", "SourceReader.checkpoint_committed"),
    *("SinkWriter.recover", "SinkWriter.ready"),
    # Of the kits: what a test may say otherwise.
    *("SourceContract.clock", "SinkContract.clock"),
}


def modules() -> list[str]:
    found = [
        module.name
        for module in pkgutil.walk_packages(streamline.__path__, "streamline.")
        if not module.name.startswith("streamline.connectors")
    ]
    connectors = importlib.import_module("streamline.connectors")
    found += [
        module.name
        for module in pkgutil.walk_packages(connectors.__path__, "streamline.connectors.")
    ]
    return ["streamline", "streamline.connectors", *found]


def test_all_names_exist_and_are_sorted() -> None:
    assert sorted(streamline.__all__) == list(streamline.__all__)
    for name in streamline.__all__:
        assert hasattr(streamline, name), name


def test_nothing_else_is_public() -> None:
    public = {
        name
        for name, value in vars(streamline).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public <= set(streamline.__all__)


@pytest.mark.parametrize("name", [n for n in streamline.__all__ if not n.startswith("_")])
def test_public_names_are_documented(name: str) -> None:
    assert inspect.getdoc(getattr(streamline, name))


@pytest.mark.parametrize("name", modules())
def test_modules_open_with_what_they_own_and_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, name
    assert doctest.testmod(module).failed == 0


def public() -> dict[str, object]:
    found: dict[str, object] = {}
    for place in PLACES:
        module = importlib.import_module(place)
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == place and not name.startswith("_")
        ]
        found.update((name, getattr(module, name)) for name in names)
    return found


PUBLIC = public()


def has_example(thing: object) -> bool:
    return ">>>" in (vars(thing).get("__doc__") or "" if inspect.isclass(thing) else thing.__doc__)


def members(kind: type) -> dict[str, object]:
    """Methods and properties that have a docstring there, not only where they were declared."""
    found: dict[str, object] = {}
    for name, value in vars(kind).items():
        value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            if value.__doc__:
                found[name] = value
    return found


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - WITHOUT_EXAMPLE))
def test_every_public_name_has_an_example(name: str) -> None:
    """The examples run with those of their module, above."""
    assert has_example(PUBLIC[name]), f"give {name} an example in its docstring: >>> ..."


@pytest.mark.parametrize("name", sorted(n for n, one in PUBLIC.items() if inspect.isclass(one)))
def test_every_public_method_is_in_an_example(name: str) -> None:
    """In one of its own, or in one of its class or of another method of that."""
    kind = PUBLIC[name]
    found = members(kind)
    texts = [kind.__doc__ or "", *(str(member.__doc__) for member in found.values())]
    parser = doctest.DocTestParser()
    code = "\n".join(one.source for text in texts for one in parser.get_examples(text))
    missing = [
        method
        for method, member in found.items()
        if f"{name}.{method}" not in WITHOUT_EXAMPLE
        and not has_example(member)
        and (
            name in EACH_METHOD
            or not re.search(rf"\.{method}\b|\bdef {method}\b|\b{method} = ", code)
        )
    ]
    assert not missing, f"show {missing} of {name} in an example"


def test_exceptions_from_examples_are_still_needed() -> None:
    for name in WITHOUT_EXAMPLE:
        owner, _, method = name.partition(".")
        assert owner in PUBLIC, name
        if method:
            assert not has_example(members(PUBLIC[owner])[method]), name
        else:
            assert ">>>" not in (PUBLIC[name].__doc__ or ""), name


def test_the_names_of_the_users_surface() -> None:
    """DESIGN fixes these: documentation and outside programs are written against them."""
    streams = "map filter flat_map map_batch with_timestamps key_by union rebalance broadcast sink"
    for method in streams.split():
        assert callable(getattr(streamline.Stream, method))
    for method in ["window", "reduce", "aggregate", "process"]:
        assert callable(getattr(streamline.KeyedStream, method))
    for method in ["aggregate", "reduce", "apply"]:
        assert callable(getattr(streamline.WindowedStream, method))
    wanted = "Job Record Json MsgPack Csv Text Raw Tumbling Sliding Session col Aggregation"
    wanted += " Count Sum Min Max Mean Collect"
    assert set(wanted.split()) <= set(streamline.__all__)


ON_ERROR = {"on_error", "name", "parallelism"}
NODE = {"name", "parallelism"}
PARAMETERS: dict[str, dict[str, set[str]]] = {
    "Stream": {
        "map": {"function", *ON_ERROR},
        "filter": {"function", *ON_ERROR},
        "flat_map": {"function", *ON_ERROR},
        "map_batch": {"function", *ON_ERROR},
        "map_columns": {"function", *ON_ERROR},
        "with_timestamps": {
            *("time", "max_out_of_orderness", "idle_after", "max_future"),
            *ON_ERROR,
        },
        "key_by": {"key", *ON_ERROR},
        "union": {"others", *NODE},
        "rebalance": NODE,
        "broadcast": NODE,
        "sink": {"sink", *NODE},
        "uid": {"name"},
    },
    "KeyedStream": {
        "window": {"window", "allowed_lateness"},
        "reduce": {"function", *NODE},
        "aggregate": {"aggregations", *NODE},
        "process": {"function", *NODE},
        "uid": {"name"},
    },
    "WindowedStream": {
        "aggregate": {"aggregations", *NODE},
        "reduce": {"function", *NODE},
        "apply": {"function", *NODE},
    },
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_of_every_method_of_a_stream(name: str) -> None:
    """Every operator takes ``name=`` and ``parallelism=``, and no other name without a line here."""
    found = {
        method: set(inspect.signature(function).parameters) - {"self"}
        for method, function in vars(getattr(streamline, name)).items()
        if inspect.isfunction(function) and not method.startswith("_")
    }
    assert found == PARAMETERS[name]
