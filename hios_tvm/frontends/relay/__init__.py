"""Relay programs: text or JSON in, Relax IRModule out."""

from hios_tvm.frontends.relay.importer import from_relay, from_relay_json, load_relay

__all__ = ["from_relay", "from_relay_json", "load_relay"]
