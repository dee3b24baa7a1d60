"""TLS: who listens is known by a certificate, and who is not known is told so in one sentence."""

import json
import subprocess

import pytest

from streamline.cluster.client import Client, UnreachableError
from streamline.errors import UsageError
from tests.cluster.running import Cluster


def certificate(folder, name):
    """A self-signed one for loopback, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-noenc", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    cluster = Cluster(folder)
    cluster.url = cluster.url.replace("http:", "https:")
    cluster.certificate, key = certificate(folder, "cluster")
    cluster.other, _ = certificate(folder, "other")
    (folder / "token").write_text("a token of sixteen letters and more\n")
    cluster.key = key
    tls = ("--tls-cert", cluster.certificate, "--tls-key", key)
    cluster.start(*tls)
    yield cluster
    cluster.__exit__()


@pytest.fixture
def elsewhere(cluster, monkeypatch, tmp_path):
    """Where nothing is known of it but the token."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("STREAMLINE_TOKEN", (cluster.data / "token").read_text())
    monkeypatch.delenv("STREAMLINE_CA", raising=False)


def test_ones_own_commands_know_it(cluster):
    assert json.loads(cluster.ok("list", "--json")) == []


def test_others_know_it_by_its_certificate(cluster, elsewhere, monkeypatch):
    with Client(cluster.url, ca=str(cluster.certificate)) as client:
        assert client.get("/v1/jobs") == []
    monkeypatch.setenv("STREAMLINE_CA", str(cluster.certificate))
    with Client(cluster.url) as client:
        assert client.get("/v1/jobs") == []


@pytest.mark.parametrize("other", [False, True])
def test_one_that_is_not_trusted_is_told(cluster, elsewhere, other):
    ca = str(cluster.other) if other else None
    with Client(cluster.url, ca=ca) as client, pytest.raises(UsageError) as raised:
        client.get_patiently("/v1/jobs", pause=pytest.fail)  # it will not get better
    assert str(raised.value) == (
        f"the certificate of {cluster.url} is not trusted (self-signed certificate); give that of "
        "the cluster, or of who has signed it, with --ca FILE or STREAMLINE_CA"
    )


def test_a_certificate_that_is_none(cluster, elsewhere):
    with pytest.raises(UsageError, match="--ca nowhere.pem cannot be used: No such file"):
        Client(cluster.url, ca="nowhere.pem")
    said = cluster.refused("list", "--cluster", cluster.url, "--ca", cluster.key)
    assert said.startswith(f"streamline: --ca {cluster.key} cannot be used: ")
    plain = cluster.url.replace("https", "http")
    with Client(plain) as client, pytest.raises(UnreachableError, match="cannot be reached"):
        client.get("/v1/jobs")


def test_other_addresses_want_a_token_and_better_a_certificate(cluster):
    """It is told before it listens; and here it comes to nothing, as the port is in use."""
    place = cluster.url.rpartition(":")[2]
    listen = ("cluster", "start", "--data-dir", "other", "--listen", f"0.0.0.0:{place}")
    refused = cluster.refused(*listen)
    assert "other machines could reach it; give the token they must have with --token-file" in (
        refused
    )
    status, out, said = cluster.run(*listen, "--token-file", "token")
    assert (status, out) == (2, "")
    warning, end = said.splitlines()
    assert warning == (
        "streamline: listening on 0.0.0.0 without TLS: whoever can listen in can read the token"
    )
    assert "Address already in use" in end
    tls = ("--tls-cert", cluster.certificate, "--tls-key", cluster.key)
    with_tls = cluster.refused(*listen, "--token-file", "token", *tls)
    assert "without TLS" not in with_tls
