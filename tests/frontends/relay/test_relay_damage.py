"""Damaged programs: a Relay error with its place, or a valid module; nothing else, and no hang."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay_programs import DATA
from tvm import relax

from hios_tvm.errors import MemoryLimitError, ModelError, RelayError
from hios_tvm.frontends.relay import from_relay, from_relay_json

TEXTS = {
    path.stem: path.read_text()
    for path in sorted([*(DATA / "operators").glob("*.relay"), DATA / "models" / "mlp.relay"])
}
LSTM = (DATA / "models" / "lstm.relay").read_text()
TABLES = [(DATA / "models" / f"{name}.json").read_text() for name in ("mlp", "lstm")]
WORD = re.compile(r"[\w%@.\"]+|\S")


def check(read: Callable[[str], tvm.IRModule], text: str) -> None:
    """Either a well-formed module, or an error that says where (where text has lines)."""
    try:
        mod = read(text)
    except RelayError as error:
        if read is from_relay and error.line is not None:
            assert error.line >= 1
            assert (error.column or 0) >= 1
    except ModelError:
        pass
    else:
        relax.analysis.well_formed(mod)  # raises an error if it is not


def swap_words(text: str, first: int, second: int) -> str:
    """Exchange two words of the text, by their numbers."""
    words = list(WORD.finditer(text))
    a, b = sorted((words[first % len(words)], words[second % len(words)]), key=lambda m: m.start())
    middle = text[a.end() : b.start()]
    return text[: a.start()] + b.group() + middle + a.group() + text[max(a.end(), b.end()) :]


texts = st.sampled_from(sorted(TEXTS.values()))
numbers = st.integers(0, 10**6)
many = settings(
    deadline=None,
    max_examples=250,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@many
@given(texts, numbers)
def test_truncation(text: str, end: int) -> None:
    check(from_relay, text[: end % len(text)])


@many
@given(texts, numbers, st.integers(1, 40))
def test_deletion(text: str, start: int, length: int) -> None:
    start %= len(text)
    check(from_relay, text[:start] + text[start + length :])


@many
@given(texts, numbers, numbers)
def test_swap(text: str, first: int, second: int) -> None:
    check(from_relay, swap_words(text, first, second))


@many
@given(texts, numbers, st.sampled_from('0123456789-.,;(){}[]%@"#/*=? ax\n\x00é'))
def test_another_letter(text: str, at: int, letter: str) -> None:
    at %= len(text)
    check(from_relay, text[:at] + letter + text[at + 1 :])


@settings(deadline=None, max_examples=60, derandomize=True)
@given(numbers, numbers, st.integers(1, 200))
def test_larger_program(first: int, second: int, length: int) -> None:
    start = first % len(LSTM)
    check(from_relay, LSTM[:start] + LSTM[start + length :])
    check(from_relay, swap_words(LSTM, first, second))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from(TABLES), numbers, st.integers(1, 40))
def test_json_text(table: str, start: int, length: int) -> None:
    start %= len(table)
    check(from_relay_json, table[:start] + table[start + length :])
    check(from_relay_json, table[:start])


@many
@given(st.sampled_from(TABLES), st.randoms(use_true_random=False))
def test_json_nodes(table: str, rng: random.Random) -> None:
    """A node, a field or a reference replaced by another one of the same table."""
    content = json.loads(table)
    nodes = content["nodes"]
    for _ in range(rng.randint(1, 3)):
        node, other = rng.choice(nodes), rng.choice(nodes)
        match rng.randint(0, 3):
            case 0:
                nodes[rng.randrange(len(nodes))] = other
            case 1 if node.get("attrs"):
                key = rng.choice(sorted(node["attrs"]))
                node["attrs"][key] = rng.choice(["-1", "x", str(rng.randrange(len(nodes)))])
            case 2 if node.get("data"):
                node["data"][rng.randrange(len(node["data"]))] = rng.randrange(len(nodes))
            case _:
                node["type_key"] = other["type_key"]
    check(from_relay_json, json.dumps(content))


NOT_TABLES = ["", "{}", "[]", "null", '{"nodes": []}', '{"nodes": [0], "root": 0}', "[" * 100_000]


@pytest.mark.parametrize("text", NOT_TABLES, ids=range(len(NOT_TABLES)))
def test_other_json(text: str) -> None:
    with pytest.raises(RelayError):
        from_relay_json(text)


DEEP = {
    "parentheses": "(" * 50_000,
    "tuple types": f"fn (%x: {'(' * 20_000}float32{',)' * 20_000}) {{ %x }}",
    "patterns": f"match (1) {{ {'(' * 20_000}%x{',)' * 20_000} => %x }}",
    "comments": "/*" * 100_000,
    "lists": f"nn.relu(1f, a={'[' * 20_000}{']' * 20_000})",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting(name: str) -> None:
    with pytest.raises(RelayError):
        from_relay(DEEP[name])


def test_growth_is_limited() -> None:
    """Each function calls the one before twice: 2**40 operators."""
    functions = ["def @f0(%x: float32) { exp(%x) }"]
    functions += [f"def @f{i}(%x) {{ @f{i - 1}(@f{i - 1}(%x)) }}" for i in range(1, 41)]
    main = "def @main(%x: float32) { @f40(%x) }"
    with pytest.raises(RelayError, match="operators"):
        from_relay("\n".join([*functions, main]))


def growing(body: str) -> str:
    return f'#[version = "0.0.5"]\ndef @main(%x: Tensor[(1), float32]) {{ {body} }}\n'


def test_repeats_beyond_32_bits_are_refused() -> None:
    with pytest.raises(MemoryLimitError, match=r"repeat .* needs 3725.3 GiB"):
        from_relay(growing("repeat(%x, repeats=1000000000000, axis=0)"))
    with pytest.raises(RelayError, match="the number of repeats cannot be -1"):
        from_relay(growing("repeat(%x, repeats=-1, axis=0)"))


@pytest.mark.parametrize("body", ["broadcast_to(%x, shape=[-76])", "tile(%x, reps=[-76])"])
def test_negative_sizes_are_refused(body: str) -> None:
    with pytest.raises(RelayError, match=r"a tensor cannot have the shape \[-76\]"):
        from_relay(growing(body))


def test_file_that_is_no_text(tmp_path: Path) -> None:
    from hios_tvm.frontends.relay import load_relay

    path = tmp_path / "model.relay"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match=r"model\.relay: cannot be read"):
        load_relay(path)
    path.write_text("def @main(")
    with pytest.raises(RelayError, match=r"model\.relay: line 1, column 11"):
        load_relay(path)
