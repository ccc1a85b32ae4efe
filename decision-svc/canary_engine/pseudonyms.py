"""Marks that stand for ids of people in an audit chain, and which texts need one.

The same text gives the same mark under the same salt, so somebody can be followed through one
chain; whoever has a candidate and the salt can tell whether a mark is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from functools import lru_cache
from hashlib import sha256

from netaddr import IPNetwork

from canary_engine.model import Identity, Rule, Source

Hash = Callable[[str], str]

_MARK_DIGITS = 16
_ONE_IPV4, _ONE_IPV6_SITE = 32, 64
_PLAIN_HEADERS = frozenset({"accept", "accept-language", "content-type", "host", "user-agent"})
# What the last word of a name is where values name a kind of people, or of clients, and nobody.
_PLAIN_WORDS = frozenset(
    (
        *("beta", "build", "canary", "channel", "country", "env", "environment", "flag", "group"),
        *("kind", "language", "locale", "mode", "plan", "platform", "preview", "region", "role"),
        *("stage", "test", "tier", "type", "version"),
    )
)
_PLAIN_ATTRIBUTES = ("tier", "region")


def hashing(salt: str) -> Hash:
    """What gives a text its mark: "#" and the first 16 digits of SHA-256 over salt, 0, text."""
    start = sha256(salt.encode() + b"\0")

    def hash_(text: str) -> str:
        found = start.copy()
        found.update(text.encode("utf-8", "surrogatepass"))
        return f"#{found.hexdigest()[:_MARK_DIGITS]}"

    return hash_


def is_personal(rule: Rule, people: Container[tuple[Source, str]], identity: Identity) -> bool:
    """Whether the rule's values may say who somebody is.

    ``people`` are the places that ids of users and hash keys are read from. Of headers and cookies
    everything is taken for personal unless its name says otherwise.
    """
    if (rule.source, rule.key) in people or "@" in f"{rule.exact}{rule.pattern}{rule.one_of}":
        return True
    if rule.source not in (Source.HEADER, Source.COOKIE):
        return False
    declared = {identity.attribute_headers.get(name, "").lower() for name in _PLAIN_ATTRIBUTES}
    return not (rule.key.lower() in declared | _PLAIN_HEADERS or is_plain_name(rule.key))


def is_plain_name(name: str) -> bool:
    """Whether a header, cookie or attribute of that name says what somebody is, and not who."""
    return re.split(r"[^a-z0-9]+", name.lower())[-1] in _PLAIN_WORDS


# All of a policy's are looked at whenever it changes.
@lru_cache(maxsize=16_384)
def address_of_one(text: str) -> str:
    """An address or network, in one form, if it may be one household's; "" if it is wider.

    That is one IPv4 address, or an IPv6 network of 64 bits or more, of which a household has one.
    """
    if "/" not in text and ":" not in text:
        return text
    network = IPNetwork(text)
    if network.version == 6 and network.is_ipv4_mapped():
        network = network.ipv4()
    if network.prefixlen < (_ONE_IPV4 if network.version == 4 else _ONE_IPV6_SITE):
        return ""
    return str(network.ip if network.size == 1 else network.cidr)
