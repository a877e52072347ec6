"""Our template engine against Jinja2 as transformers sets it up: every case of
internal/reference/jinja/testdata/cases.json, and random expressions.

usage: templates.py TARBERT [--record] [--seed S]

A case is a template and a JSON object of variables. --record writes what
transformers renders (or that it refuses) into the file, for the Go tests.
"""

import argparse
import copy
import json
import pathlib
import random
import secrets
import sys
import warnings

from transformers.utils.chat_template_utils import _compile_jinja_template

import texts
from checks import Checks, Tarbert, end_on_signals, scratch

CASES = pathlib.Path(__file__).parent.parent / "internal/reference/jinja/testdata/cases.json"


def rendered(template, variables):
    """The text, or None where transformers refuses."""
    try:
        return _compile_jinja_template(template).render(messages=[], tools=None, documents=None, add_generation_prompt=False, **copy.deepcopy(variables))
    except Exception:  # whatever Python raises is a refusal
        return None


def ours(tarbert, directory, template, variables):
    (directory / "chat_template.jinja").write_text(template)
    try:
        return tarbert.tokenize(directory, [{"id": "0", "messages": [], "options": variables}])[0]["text"]
    except RuntimeError:
        return None


def recorded(tarbert, directory):
    """The recorded cases are still what transformers renders."""
    cases = json.loads(CASES.read_text())
    for c in cases:
        if (now := rendered(c["template"], c.get("vars", {}))) != c.get("want"):
            raise AssertionError(f"{c['template']!r} is now rendered {now!r}, recorded is {c.get('want')!r}")
    return f"{len(cases)} cases, {sum(c.get('want') is None for c in cases)} of them refused"


ATOMS = ["n", "f", "s", "t", "l", "d", "none", "true", "undefined_one", "'a b'", "''", "0", "-3", "7", "2.5", "1e16", "[1, 'x']", "(1,)", "{'k': none}", "l[0]", "d.k", "d['u']", "s[1]"]
TAILS = [".split()", ".split(',', 1)", ".rsplit(' ', 1)", ".strip()", ".lstrip('xa')", ".rstrip()", ".upper()", ".title()", ".capitalize()", ".replace('a', 'b', 1)", ".find('a')",
         ".startswith('a')", ".splitlines()", ".items() | list", ".get('k', 5)", "[0]", "[-1]", "[1:]", "[::-1]", "[:-1]", "['k']", ".k", " | length", " | tojson", " | string", " | trim", " | upper",
         " | title", " | default('D')", " | default('D', true)", " | first", " | last", " | list", " | join('-')", " | int", " | float", " | abs", " | reverse | list", " | items | list",
         " | tojson(indent=2)", " | sort", " | unique | list", " | max", " | sum", " | round(1)", " | indent(2)", " | map('string') | list", " | select('string') | list", " | replace('a', 'o')", " | capitalize"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]
TESTS = ["defined", "none", "string", "number", "integer", "float", "boolean", "mapping", "iterable", "sequence", "odd", "true", "eq(7)", "in([1, 7])", "lower", "divisibleby 3"]


def expression(rng, depth=0):
    kind = rng.random()
    if depth > 2 or kind < 0.25:
        return rng.choice(ATOMS)
    inner = expression(rng, depth + 1)
    if kind < 0.6:
        tail = rng.choice(TAILS)
        if ":" in tail:
            # Jinja evaluates a slice of a constant by other rules, where it can: (7)[1:] is undefined, or refused inside a filter. No template has one.
            inner = rng.choice("nfstld")
        return f"({inner}){tail}"
    if kind < 0.85:
        return f"({inner} {rng.choice(OPERATORS)} {expression(rng, depth + 1)})"
    if kind < 0.93:
        return f"({inner} is {rng.choice(('', 'not '))}{rng.choice(TESTS)})"
    return f"({inner} if {expression(rng, depth + 1)} else {expression(rng, depth + 1)})"


def expressions(tarbert, directory, rng, number):
    """Random expressions, several to a template; one that Python refuses must be refused."""
    refused = 0
    for _ in range(number):
        variables = {"n": rng.choice((0, 7, -2, 10**20)), "f": rng.choice((0.0, 2.5, -1e-7, 1e22)), "s": texts.text(rng)[:40], "t": "a,b,, c",
                     "l": [rng.choice((1, 2.0, "b", None, [])) for _ in range(rng.randint(0, 3))], "d": {"k": texts.text(rng)[:20], "u": None, "z": [True]}}
        lines, wanted = [], []
        while len(lines) < 40:
            e = expression(rng)
            want = rendered("{{ " + e + " }}", variables)
            if want is None:
                refused += 1
                if refused % 40 == 0:  # a process each: a sample
                    if (got := ours(tarbert, directory, "{{ " + e + " }}", variables)) is not None:
                        raise AssertionError(f"{e} with {variables} gives {got!r}, Python refuses it")
                continue
            lines.append("{{ " + e + " }}")
            wanted.append(want)
        got = ours(tarbert, directory, "\x00".join(lines), variables)
        if got is None or got != "\x00".join(wanted):
            for line, want in zip(lines, wanted):
                one = ours(tarbert, directory, line, variables)
                if one != want:
                    raise AssertionError(f"{line} with {variables}: ours {one!r}, theirs {want!r}")
            raise AssertionError("together they differ, one by one they do not")
    return f"{number * 40} expressions equal; {refused} that Python refuses, of which {refused // 40} were tried and refused"


def record():
    cases = json.loads(CASES.read_text())
    for c in cases:
        c.pop("want", None)
        if (want := rendered(c["template"], c.get("vars", {}))) is not None:
            c["want"] = want
    CASES.write_text("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tarbert")
    args.add_argument("--record", action="store_true")
    args.add_argument("--templates", type=int, default=50)
    args.add_argument("--seed", type=int, default=secrets.randbits(32))
    args = args.parse_args()
    end_on_signals()
    warnings.simplefilter("ignore")  # Python's, of expressions that make no sense
    if args.record:
        return record()
    print(f"templates, seed {args.seed}", flush=True)
    checks, rng, tarbert = Checks(), random.Random(args.seed), Tarbert(args.tarbert)
    with scratch() as tmp:
        texts.save(texts.train("qwen", 320, rng), "qwen", tmp)
        checks.run("recorded templates are what transformers renders", recorded, tarbert, tmp)
        checks.run("random expressions", expressions, tarbert, tmp, rng, args.templates)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
