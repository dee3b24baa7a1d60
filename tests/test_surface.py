"""The public names: what they are, that they are documented, and that their examples run."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import streamline


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


def test_the_names_of_the_users_surface() -> None:
    """DESIGN fixes these: documentation and outside programs are written against them."""
    streams = "map filter flat_map map_batch with_timestamps key_by union rebalance broadcast sink"
    for method in streams.split():
        assert callable(getattr(streamline.Stream, method))
    for method in "window reduce aggregate process".split():
        assert callable(getattr(streamline.KeyedStream, method))
    for method in "aggregate reduce apply".split():
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
