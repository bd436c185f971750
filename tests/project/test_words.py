"""The words of the package and its pages: those of the field, and the few of the glossary."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DOCS, ROOT
from support.pages import find_pages

PACKAGE = ROOT / "backjob"
GLOSSARY = DOCS / "reference" / "glossary.md"
MOST_TERMS = 25

PAGES_TO_DO = ["README.md"]

AVOIDED = {
    r"(?<!seals and )\bsigns?\b(?! (in|out|a|the|and)\b)": "heartbeat, or progress report",
    r"\bsilen(ce|t)\b": "no heartbeat",
    r"\bstrays?\b": "orphaned run",
    r"\bsuspects?\b": "possibly lost job",
    r"\bsettle[sd]?\b": "recover, or finish",
    r"\bvouch(es|ed|ing)?\b": "renew the lease",
    r"\bcells\b": "cache entries",
    r"\bnotices\b": "hooks",
    r"\bknock(s|ed|ing)?\b": "send a wake-up request",
    r"\bat home\b": "belongs to this application",
    r"\b(is|are|was) away\b": "is unreachable",
    r"\bnobody\b": "no process, or anonymous",
    r"\bfinds? no place\b": "the server is at capacity",
    r", for (it|they|there|this|that|he|who|a|an|the|its|what) (\w+ )?(is|are|was|has|have|can|may|would)\b": "because",
    r"\b(stands?|stood) (in|there|once|beside|between|for)\b": "is stored in, is defined once",
    r"\ball the same\b": "anyway",
    r"\bas ever\b": "as before",
    r"\bmostly\b": "usually",
    r"\bby hand\b": "manually",
    r"\bwith time\b": "over time",
    r"\b(tells?|told)\b": "reports, shows",
    r"\b(is|are|has|have) (?-i:none)\b": "is missing, without",
    r"\bhow many it were\b": "the number of",
    r"\bgets? through\b": "succeeds",
}
OPENINGS = "And|How|It|Of|That|Them|These|They|Those|What|Where|Whether|Which|Who|Whom|Whose|Why"
OPENING = re.compile(rf"({OPENINGS})\b")
QUESTION = re.compile(r"[^.:]*\?")
PREDICATE = re.compile(r"_?(is|has|are|may|can)_")
NAME = re.compile(
    r"(?:^|_)(tells?|told|vouch\w*|strays?|suspects?|settled?|silen(?:ce|t)|knocks?|nobody|cells|notices)(?:_|$)"
)


def find_modules() -> list[Path]:
    """Return the modules of the package and the examples."""
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "examples").rglob("*.py")])


def find_docstrings(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the owner's name and the text of each docstring, also those below an assignment."""
    for node in ast.walk(tree):
        body = _list_body(node)
        for above, each in zip([None, *body], body, strict=False):
            is_text = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
            if is_text and isinstance(each.value.value, str):
                yield each.lineno, getattr(node, "name", "") if above is None else "", each.value.value


def _list_body(node: ast.AST) -> list[ast.stmt]:
    body = getattr(node, "body", [])
    return body if isinstance(body, list) else []


def find_comments(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def find_messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield texts of several words: messages, helps, descriptions. Docstrings are among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def find_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield names that the module gives: of classes, functions, arguments and variables."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.lineno, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower()
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id.lower()


def find_avoided(text: str) -> list[str]:
    """Return the avoided words in a text, each with what to write."""
    text = re.sub(r"``.*?``|`[^`]*`", "", " ".join(text.split()))
    matches = [(re.search(pattern, text, re.IGNORECASE), better) for pattern, better in AVOIDED.items()]
    return [f"{match[0].strip(', ')!r}: {better}" for match, better in matches if match]


def find_faults(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    faults = []
    for line, text in [*find_comments(path), *find_messages(tree)]:
        faults += [f"{line}: {each}" for each in find_avoided(text)]
    for line, owner, text in find_docstrings(tree):
        if OPENING.match(text):
            faults.append(f"{line}: begin with a verb or a noun, not with {text.split()[0]!r}")
        if QUESTION.match(text) and not PREDICATE.match(owner):
            faults.append(f"{line}: only is_… and has_… ask a question")
    faults += [f"{line}: the name {name}" for line, name in find_names(tree) if NAME.search(name)]
    return faults


def strip_code(page: str) -> str:
    """Return the prose of a page: without code blocks, inline code and the targets of links."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`|(?<=\])\([^)]*\)|https?://\S+", "", text)


def read_terms() -> list[str]:
    return re.findall(r"^(\S.*)\n  \S", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)


def is_used(term: str, text: str) -> bool:
    """Does the text have the term, with the endings of English?"""
    stem = re.escape(term.removesuffix("e")).replace(r"\ ", r"\s")
    return re.search(rf"\b{stem}(e|\w?(ed|s|es|ing|ions?))?\b", text, re.IGNORECASE) is not None


def test_the_glossary_is_short_and_sorted_by_purpose() -> None:
    terms = read_terms()
    assert 15 < len(terms) <= MOST_TERMS
    assert len(set(terms)) == len(terms)


@pytest.mark.parametrize("term", read_terms())
def test_a_term_is_used_in_docstrings_and_pages(term: str) -> None:
    docstrings = [
        text
        for path in PACKAGE.rglob("*.py")
        for _, owner, text in find_docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if not owner.startswith("_")
    ]
    assert is_used(term, "\n".join(docstrings))
    pages = [ROOT / page for page in find_pages() if ROOT / page != GLOSSARY]
    assert any(is_used(term, strip_code(page.read_text(encoding="utf-8"))) for page in pages)


@pytest.mark.parametrize("path", find_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_in_the_words_of_the_field(path: Path) -> None:
    assert find_faults(path) == []


@pytest.mark.parametrize("page", sorted(set(find_pages()) - set(PAGES_TO_DO)))
def test_pages_are_in_the_words_of_the_field(page: str) -> None:
    assert find_avoided(strip_code((ROOT / page).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f():\n    'What it is.'", "begin with a verb"),
        ("x = 1\n'Those that are.'", "begin with a verb"),
        ("def f():\n    'Is it so?'", "ask a question"),
        ("# until the next sign of it", "heartbeat"),
        ("raise ValueError(f'nobody has {x} here')", "anonymous"),
        ("def tell_all():\n    pass", "tell_all"),
        ("# It waits, for there is no slot.", "because"),
    ],
)
def test_avoided_words_are_found(source: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(f"{source}\n")
    assert fault in " ".join(find_faults(path))


def test_plain_words_are_not_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def is_so():\n    'Is it so?'\n\n\nsign = 1  # sign the token; users sign in\n")
    assert find_faults(path) == []
