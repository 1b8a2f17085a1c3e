"""What a reload cannot change is kept as it was, and named."""

from __future__ import annotations

from attrs import evolve

from batchns.daemon.fixed import keep_fixed, needs_restart
from batchns.model.config import Admins, Config, DaemonSettings, IsolationSettings, NetworkSettings, Paths, Tls


def test_settings_that_are_made_use_of_at_the_start_stay_as_they_were_one_by_one() -> None:
    held = Config()
    wanted = evolve(
        held,
        paths=Paths(state="/elsewhere"),
        network=NetworkSettings(outside=(), host=True, allow=()),
        isolation=IsolationSettings(id_ranges=8, images=("/images",)),
        daemon=DaemonSettings(socket="/run/other.sock", connections=7, admins=Admins(users=("ada",))),
    )
    got, waiting = keep_fixed(wanted, held)
    assert waiting == ("paths.state", "network.outside", "network.host", "isolation.id_ranges", "daemon.socket")
    assert got.paths == held.paths and got.network == evolve(held.network, allow=())
    assert got.isolation == IsolationSettings(images=("/images",))
    assert got.daemon == DaemonSettings(connections=7, admins=Admins(users=("ada",)))
    assert needs_restart(waiting[1:3]) == "needs a restart: network.outside, network.host"


def test_settings_that_have_not_changed_need_nothing() -> None:
    assert keep_fixed(Config(), Config()) == (Config(), ()) and needs_restart(()) == ""


def test_certificates_and_their_users_change_but_not_where_the_daemon_listens() -> None:
    before = Tls(listen=("127.0.0.1", 4000), certificate="/a.pem", key="/a.key", ca="/ca.pem", users={"Boss": "root"})
    renewed = evolve(before, certificate="/b.pem", users={})
    moved = evolve(renewed, listen=("127.0.0.1", 4001))
    for wanted, held, got, waiting in (
        (renewed, before, renewed, ()),
        (moved, before, renewed, ("daemon.tls.listen",)),
        (before, None, None, ("daemon.tls",)),
        (None, before, before, ("daemon.tls",)),
    ):
        config, names = keep_fixed(Config(daemon=DaemonSettings(tls=wanted)), Config(daemon=DaemonSettings(tls=held)))
        assert (config.daemon.tls, names) == (got, waiting)
