"""Damage to files: of their bytes, and of the values in their JSON."""

from __future__ import annotations

import json
import random
from typing import Any

NUMBERS = (-(2**63), -1, 0, 1, 2, 63, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63, 10**30)
VALUES = (*NUMBERS, 0.5, None, True, "", "x", "\0", "\ud800", [], {}, [[]])


def damage(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, move, overwrite or insert bytes at a random place."""
    i, j, k = sorted(rng.randrange(len(content) + 1) for _ in range(3))
    near = min(len(content), i + rng.choice([1, 4, 30, 64, 1000]))
    match rng.randrange(8) if content else 7:
        case 0:
            i = rng.randrange(len(content))
            return content[:i] + bytes([content[i] ^ (1 << rng.randrange(8))]) + content[i + 1 :]
        case 1:
            return content[:i]
        case 2:
            return content[:i] + content[j:]
        case 3:
            return content[:j] + content[i:j] + content[j:]
        case 4:
            return content[:i] + content[j:k] + content[i:j] + content[k:]
        case 5:
            return content[:i] + rng.randbytes(near - i) + content[near:]
        case 6:
            return content[:i] + bytes(near - i) + content[near:]
        case _:
            return content[:i] + rng.randbytes(rng.randrange(1, 100)) + content[i:]


def edit_json(text: bytes, rng: random.Random) -> bytes:
    """Replace, remove, repeat or exchange values of a JSON text, which stays valid JSON."""
    root = [json.loads(text)]
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places = list(_places(root))
        container, key = rng.choice(places)
        other, other_key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                container[key] = rng.choice(VALUES)
            case 1:
                container[key] = _copy(other[other_key])
            case 2 if container is not root:
                del container[key]
            case 3 if isinstance(container, list) and container is not root:
                container.insert(rng.randrange(len(container) + 1), _copy(other[other_key]))
            case _ if isinstance(value := container[key], int) and not isinstance(value, bool):
                container[key] = value + rng.choice([-64, -1, 1, 64, 2**31])
            case _:
                container[key] = _copy(other[other_key])
    return json.dumps(root[0]).encode()


def _places(value: Any) -> Any:
    """Yield each container in `value` with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))
