"""KafkaBroker: a real Apache Kafka of one node, from Maven's repository, on loopback.

It knows how a broker is fetched, set up and told about users and TLS. Topics, and what is in them,
are for the test to make. Starting and ending processes is in ``process``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

from streamline.testing.services.process import (
    ServerProcess,
    Service,
    ServiceUnavailableError,
    free_port,
)

VERSION = "4.1.0"
VARIABLE = "STREAMLINE_TEST_KAFKA"
_FETCH_S = 300
_STORE_PASSWORD = "changeit"  # noqa: S105 - of a key that lives as long as a test
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamline</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


class KafkaBroker(Service):
    """A broker of its own, or the one that ``STREAMLINE_TEST_KAFKA`` names.

    It needs Java 17 and Maven, which fetches Kafka once (43 MB) into the user's cache. Topics are
    not made by themselves. A broker that the variable names can be neither stopped nor killed.

    Args:
        properties: Settings of the broker beside, or instead of, those it gets here.
        users: Names and passwords; with any, ``sasl_servers`` is a second listener that wants
            them, by PLAIN or SCRAM-SHA-256.
        tls: ``tls_servers`` is one more listener, which talks TLS; with users, it wants them by
            SCRAM-SHA-512. ``ca_file`` holds the certificate to trust.

    Attributes:
        servers: Where it listens, ``host:port``.
        sasl_servers: Where it listens for users with a password.
        tls_servers: Where it talks TLS.

    Raises:
        ServiceUnavailableError: On start, if it cannot be had.

    >>> import streamline as sl
    >>> from streamline.connectors.kafka import KafkaSource
    >>> broker = KafkaBroker(users={"ann": "secret"}, tls=True)  # nothing runs yet
    >>> source = KafkaSource(broker.servers, topic="orders", format=sl.Json())
    >>> with broker:  # doctest: +SKIP
    ...     broker.pause()
    ...     broker.resume()
    ...     broker.kill()
    ...     broker.start()
    ...     print(broker.ca_file)
    """

    def __init__(
        self,
        *,
        properties: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        tls: bool = False,
    ) -> None:
        self._properties = dict(properties or {})
        self._users = dict(users or {})
        ours = bool(properties or users or tls)
        super().__init__(None if ours else os.environ.get(VARIABLE), VARIABLE)
        self.servers = self._given or f"127.0.0.1:{free_port()}"
        self.sasl_servers = f"127.0.0.1:{free_port()}" if self._users else ""
        self.tls_servers = f"127.0.0.1:{free_port()}" if tls else ""

    @property
    def ca_file(self) -> str:
        """The certificate of the TLS listener, once the broker has been started."""
        return str(self._folder / "broker.pem") if self._folder else ""

    def pause(self) -> None:
        """Let it stand still, so that requests are not answered."""
        self._running().pause()

    def resume(self) -> None:
        """Let it go on."""
        self._running().resume()

    def _create(self) -> ServerProcess:
        libs = fetch_kafka()
        self._folder = Path(tempfile.mkdtemp(prefix="streamline-kafka-"))
        if self.tls_servers:
            _make_certificate(self._folder)
        config = self._folder / "server.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self._settings().items()))
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        java = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*"]
        command = [*java, "kafka.tools.StorageTool", "format", "--standalone", "-t", cluster]
        for name, password in self._users.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                scram = f"{mechanism}=[name={name},password={password}]"
                command += ["--add-scram", scram]
        done = subprocess.run([*command, "-c", str(config)], capture_output=True, check=False)
        if done.returncode != 0:
            words = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ServiceUnavailableError(f"Kafka's storage cannot be made: {words}")
        return ServerProcess(
            "Kafka",
            [*java, "kafka.Kafka", str(config)],
            log=self._folder / "kafka.log",
            port=int(self.servers.rpartition(":")[2]),
        )

    def _settings(self) -> dict[str, str]:
        controller = f"127.0.0.1:{free_port()}"
        listeners = {"PLAINTEXT": self.servers, "CONTROLLER": controller}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        settings: dict[str, str] = {}
        if self._users:
            listeners["USERS"] = self.sasl_servers
            protocols["USERS"] = "SASL_PLAINTEXT"
            users = " ".join(f'user_{name}="{word}"' for name, word in self._users.items())
            login = "org.apache.kafka.common.security"
            prefix = "listener.name.users"
            settings = {
                f"{prefix}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
                f"{prefix}.plain.sasl.jaas.config": (
                    f"{login}.plain.PlainLoginModule required {users};"
                ),
                f"{prefix}.scram-sha-256.sasl.jaas.config": (
                    f"{login}.scram.ScramLoginModule required;"
                ),
            }
        if self.tls_servers:
            listeners["TLS"] = self.tls_servers
            protocols["TLS"] = "SASL_SSL" if self._users else "SSL"
            prefix = "listener.name.tls"
            settings |= {
                f"{prefix}.ssl.keystore.location": f"{self._folder}/broker.p12",
                f"{prefix}.ssl.keystore.type": "PKCS12",
                f"{prefix}.ssl.keystore.password": _STORE_PASSWORD,
                f"{prefix}.sasl.enabled.mechanisms": "SCRAM-SHA-512",
                f"{prefix}.scram-sha-512.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                ),
            }
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": ",".join(f"{name}://{where}" for name, where in listeners.items()),
            "advertised.listeners": ",".join(
                f"{name}://{where}" for name, where in listeners.items() if name != "CONTROLLER"
            ),
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, protocol in protocols.items()
            ),
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": controller,
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self._folder / "data") if self._folder else "",
            "auto.create.topics.enable": "false",
            "num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "2",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "2",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "1000",
            "broker.heartbeat.interval.ms": "200",
            "log.cleaner.enable": "false",
            "log.retention.ms": "-1",  # records of tests are of any time
            **settings,
            **self._properties,
        }


def _make_certificate(folder: Path) -> None:
    """A key and a certificate of its own for the loopback address, by the JDK's keytool."""
    store = ["-keystore", str(folder / "broker.p12"), "-storepass", _STORE_PASSWORD]
    make = ["-genkeypair", "-alias", "broker", "-keyalg", "EC", "-dname", "CN=broker"]
    make += ["-ext", "san=ip:127.0.0.1", "-validity", "7", "-storetype", "PKCS12"]
    show = ["-exportcert", "-alias", "broker", "-rfc", "-file", str(folder / "broker.pem")]
    for command in (make, show):
        done = subprocess.run(["keytool", *command, *store], capture_output=True, check=False)
        if done.returncode != 0:
            words = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ServiceUnavailableError(f"a certificate for Kafka cannot be made: {words}")


def fetch_kafka() -> Path:
    """The folder with Kafka's jars, fetched by Maven if it is not there yet.

    Raises:
        ServiceUnavailableError: If Java or Maven is missing or fails.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise ServiceUnavailableError(
                f"Kafka for tests needs Java 17 and Maven, and there is no {program!r}; install "
                f"them, or name a broker in {VARIABLE}"
            )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamline"
    libs = cache / f"kafka-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"kafka-{VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time
        if not libs.is_dir():
            _copy_jars(libs, cache)
    return libs


def _copy_jars(libs: Path, cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        (Path(folder) / "pom.xml").write_text(_POM.format(version=VERSION))
        jars = Path(folder) / "libs"
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, check=False, timeout=_FETCH_S
            )
        except subprocess.TimeoutExpired:
            raise ServiceUnavailableError(
                f"Maven did not bring Kafka within {_FETCH_S} s"
            ) from None
        if done.returncode != 0:
            words = (done.stdout + done.stderr).decode(errors="replace").strip()[-1_000:]
            raise ServiceUnavailableError(f"Maven cannot bring Kafka: {words}")
        jars.replace(libs)
