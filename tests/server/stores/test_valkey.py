"""The shared store: crashes, a server that stands still, settings that would lose sessions."""

from __future__ import annotations

import socketserver
import ssl
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from carousel.errors import StoreUnavailable
from carousel.server.stores import ENDED, Entry
from carousel.server.stores.valkey import ValkeyStore
from tests.client.relay import Relay
from tests.server.stores.conftest import StartValkey, admin
from tests.server.stores.model import batch
from tests.server.stores.writer import PATIENCE, group_in, write_group

GROUPS = 8  # accepted before a kill


def opened(url: str, *, timeout: float = PATIENCE, replicas: int = 0) -> closing[ValkeyStore]:
    return closing(ValkeyStore(url, timeout=timeout, replicas=replicas))


def write_until_unavailable(url: str, accepted: list[int], enough: threading.Event) -> None:
    with opened(url) as store:
        number = group_in(store)
        try:
            while True:
                number += 1
                write_group(store, number)
                accepted.append(number)
                if len(accepted) == GROUPS:
                    enough.set()
        except StoreUnavailable:
            return


def test_all_that_was_accepted_survives_the_death_of_the_store(start_valkey: StartValkey) -> None:
    """Killed at any moment, three times over; each time it goes on with what its log has."""
    process = start_valkey()
    for _ in range(3):
        accepted: list[int] = []
        enough = threading.Event()
        arguments = (process.url, accepted, enough)
        writer = threading.Thread(target=write_until_unavailable, args=arguments)
        writer.start()
        assert enough.wait(PATIENCE)
        process.kill()
        writer.join()
        process.restart()
        with opened(process.url) as store:
            last = accepted[-1]
            assert group_in(store) in (last, last + 1)  # the last may not have been answered


def test_a_store_that_lost_its_log_is_seen_to_have_lost_all(start_valkey: StartValkey) -> None:
    """The control: the check above can see a loss."""
    process = start_valkey()
    with opened(process.url) as store:
        write_group(store, 0)
        assert group_in(store) == 0
    process.kill()
    process.empty()
    process.restart()
    with opened(process.url) as store:
        assert group_in(store) == -1


def test_a_store_without_a_log_is_refused(start_valkey: StartValkey) -> None:
    process = start_valkey()
    with opened(process.url) as store, admin(process) as client:
        write_group(store, 0)
        client.config_set("appendonly", "no")
        for _ in range(2):  # on the connection it had, and on a new one
            with pytest.raises(StoreUnavailable, match=r"can't be used: .*append"):
                write_group(store, 1)
        with pytest.raises(StoreUnavailable, match=r"appendonly must be yes.*aof_enabled is 0"):
            group_in(store)
        client.config_set("appendonly", "yes")
        write_group(store, 1)
        assert group_in(store) == 1


def test_a_batch_that_does_not_reach_the_disk_is_not_called_accepted(
    start_valkey: StartValkey,
) -> None:
    process = start_valkey("--appendfsync", "no")
    with opened(process.url, timeout=0.5) as store, admin(process) as client:
        with pytest.raises(StoreUnavailable, match="came to the disk of 0 of 1 primary"):
            write_group(store, 0)
        client.config_set("appendfsync", "always")
    with opened(process.url) as store:
        write_group(store, 0)


def test_a_store_that_may_evict_is_refused(start_valkey: StartValkey) -> None:
    process = start_valkey("--maxmemory-policy", "allkeys-lru")
    with opened(process.url) as store, admin(process) as client:
        with pytest.raises(StoreUnavailable, match=r"must be noeviction.*is allkeys-lru, not"):
            write_group(store, 0)
        client.config_set("maxmemory-policy", "noeviction")
        write_group(store, 0)


def test_a_full_store_is_said_and_survived(start_valkey: StartValkey) -> None:
    process = start_valkey()
    with opened(process.url) as store, admin(process) as client:
        write_group(store, 0)
        client.config_set("maxmemory", "1mb")
        with pytest.raises(StoreUnavailable, match=r"can't be used: .*maxmemory"):
            write_group(store, 1)
        assert group_in(store) == 0
        client.config_set("maxmemory", "0")
        write_group(store, 1)
        assert group_in(store) == 1


def test_a_store_that_stands_still_is_said_in_time_and_goes_on(start_valkey: StartValkey) -> None:
    process = start_valkey()
    with opened(process.url, timeout=0.5) as hasty, opened(process.url) as store:
        write_group(store, 0)
        hasty.page("", 1)
        process.pause()
        for _ in range(2):  # while it answers, while it is connected to
            with pytest.raises(StoreUnavailable, match="Timeout reading"):
                write_group(hasty, 1)
        process.go_on()
        write_group(store, 1)
        assert group_in(store) == 1


def test_a_store_that_can_t_be_reached_is_said_without_the_password(
    start_valkey: StartValkey,
) -> None:
    process = start_valkey()
    address = f"127.0.0.1:{process.port}/0"
    with admin(process) as client:
        client.acl_setuser(
            "me", enabled=True, passwords=["+w:rd"], keys="carousel:*", commands=["+@all"]
        )
    with opened(f"valkey://me:w%3Ard@{address}") as store:
        write_group(store, 0)
    with opened(f"valkey://me:s3cret@{address}") as store:
        with pytest.raises(StoreUnavailable, match=f"valkey://{address} can't .*password") as error:
            write_group(store, 0)
        assert "s3cret" not in str(error.value)
        process.kill()
        with pytest.raises(StoreUnavailable, match=f"valkey://{address} can't .*refused") as error:
            write_group(store, 0)
        assert "s3cret" not in str(error.value)


def test_a_write_that_comes_late_finds_its_connection_gone(start_valkey: StartValkey) -> None:
    """A creation times out, is sent again, its session ends; then the first one arrives."""
    process = start_valkey()
    created = batch(Entry("s", 7, 0, 1e9, b"created"), formers=[0])
    ended = batch(Entry("s", ENDED, 1, 1e9, b"ended"), formers=[7])
    with closing(Relay(f"127.0.0.1:{process.port}")) as relay:
        store = ValkeyStore(f"valkey://{relay.target}", timeout=1)
        assert store.page("", 1) == []
        relay.hold()
        with pytest.raises(StoreUnavailable):
            store.write(created)
        assert store.write(created) == []
        assert store.write(ended) == []
        relay.release()
        assert store.read(["s"])["s"].data == b"ended"
        store.close()


def test_scripts_that_were_flushed_are_loaded_again(start_valkey: StartValkey) -> None:
    process = start_valkey()
    with opened(process.url) as store, admin(process) as client:
        write_group(store, 0)
        client.script_flush()
        with pytest.raises(StoreUnavailable, match="script"):
            write_group(store, 1)
        write_group(store, 1)


def test_a_batch_waits_for_the_disks_of_replicas(start_valkey: StartValkey) -> None:
    no_replica = pytest.raises(StoreUnavailable, match="of 0 of 1 replicas")
    primary = start_valkey("--repl-diskless-sync-delay", "0")
    with opened(primary.url, replicas=1, timeout=0.5) as store, no_replica:
        write_group(store, 0)
    replica = start_valkey("--replicaof", f"127.0.0.1 {primary.port}", folder="replica")
    with opened(replica.url) as store, pytest.raises(StoreUnavailable, match="must be a primary"):
        write_group(store, 1)
    with opened(primary.url, replicas=1) as store:
        write_group(store, 1)
    replica.kill()
    replica.restart("--appendonly", "yes")  # alone, on its own log
    with opened(replica.url) as store:
        assert group_in(store) == 1


class OldServer(socketserver.StreamRequestHandler):
    """Says of itself what a Redis from before WAITAOF does."""

    def handle(self) -> None:
        info = b"redis_version:7.0.15\r\naof_enabled:1\r\n"
        while header := self.rfile.readline():
            command = [self._argument() for _ in range(int(header[1:]))]
            answer = info if command == [b"INFO"] else b"OK"
            self.wfile.write(b"$%d\r\n%s\r\n" % (len(answer), answer))

    def _argument(self) -> bytes:
        size = int(self.rfile.readline()[1:])
        return self.rfile.read(size + 2)[:-2]


def test_a_server_too_old_to_sync_is_refused() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        too_old = pytest.raises(StoreUnavailable, match=r"version 7\.2 or newer.* is 7\.0\.15")
        with opened(f"valkey://127.0.0.1:{server.server_address[1]}") as store, too_old:
            store.page("", 1)
        server.shutdown()
        thread.join()


def test_valkeys_speaks_tls_and_trusts_only_whom_the_machine_trusts(
    start_valkey: StartValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test"
    )
    made = [*make.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate)]
    subprocess.run([*made, "-keyout", str(key)], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    process = start_valkey()
    relay = Relay(f"127.0.0.1:{process.port}", tls=context)
    with closing(relay), opened(f"valkeys://{relay.target}/0") as store:
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            write_group(store, 0)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        write_group(store, 0)
        assert group_in(store) == 0
