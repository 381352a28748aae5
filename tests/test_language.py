"""The prose of the README, the changelog, the docs and the package keeps the limits of a plain style, as far as a machine can hold them."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGE = ROOT / "ha_session_mw"
PROSE = [*PAGES, *sorted(PACKAGE.rglob("*.py"))]

MOST_WORDS = 25
"""Longest sentence, in words. A reader who knows English as a second language reads one of that length in one go."""

_SUBJECT = "it|he|she|they|there|that|this|these|those|then|else|otherwise|nobody|nothing|each|one|a|the"
_VERB = "is|are|has|have|was|were|would|could|can|may|must|does|do"

NOT_PLAIN = {
    r"(?:^|[.:;!?] )(?:Who|Whoever|What) (?!\w+[^.?!]*\?)": "a question word as the subject",
    r"\bis (?:told|had)\b|\bare (?:told|had)\b(?! apart)": "a passive without an actor: say who reports or receives it",
    r"\bso much\b(?! (?:as|that))": "so much of what? Name the amount",
    rf", for (?:{_SUBJECT}) [^.;:]*\b(?:{_VERB})\b": "'for' as a conjunction: use 'because'",
    r"\b(?:besides that|of ours|of its own accord)\b": "an idiom that reads like a translation",
    r"\bstands? (?:for certain|no longer)\b": "a token is valid, expired or revoked",
    r"\bhowever (?:much|little|long|often|many)\b": "an inverted concession",
    r"\bon (?:its|their) own(?:$|[.,;:])": "say alone, or isolated",
    r"\bthe (?:more|less|later|earlier) the (?:more|less|later|earlier)\b": "an inverted comparison",
}
"""Constructions that this project's prose avoids, each with the reason or the remedy."""

_FENCE = re.compile(r"^[ ]*```.*?^[ ]*```$", re.MULTILINE | re.DOTALL)
_NOT_PROSE = re.compile(r"^[ ]*(?:\||#|>|\[[^\]]+\]:)")
_ROW = re.compile(r"^\|(.*)\|$", re.MULTILINE)
_ITEM = re.compile(r"^[ ]*(?:[*-]|\d+\.) ")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"`[^`]+`")
_END = re.compile(r"(?<=[.!?])[\"')\]*_]* +(?=[\"'(\[*_]*[A-Z0-9`])|(?<=:)$")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|etc|vs|cf)\.")


def paragraphs(text: str) -> Iterator[str]:
    """Each paragraph and list item, in one line, without code blocks, tables, headings and quotations."""
    lines: list[str] = []
    for line in [*_FENCE.sub("", text).splitlines(), ""]:
        if lines and (not line.strip() or _NOT_PROSE.match(line) or _ITEM.match(line)):
            yield " ".join(lines)
            lines = []
        if line.strip() and not _NOT_PROSE.match(line):
            lines.append(_ITEM.sub("", line).strip())


def sentences(text: str) -> Iterator[str]:
    """Each sentence. A piece of code counts as one word, and a link as its text."""
    for paragraph in paragraphs(text):
        plain = _ABBREVIATION.sub(r"\1", _LINK.sub(r"\1", _CODE.sub("CODE", paragraph)))
        yield from (sentence.strip() for sentence in _END.split(plain) if sentence.strip())


def cells(text: str) -> Iterator[str]:
    """Each cell of each table."""
    for row in _ROW.findall(_FENCE.sub("", text)):
        yield from (cell.strip() for cell in _LINK.sub(r"\1", _CODE.sub("CODE", row)).split("|"))


_ROLE = re.compile(r":\w+:(?=`)")
_FIELD = re.compile(r"^    (?=[*\w][\w, *]*: )", re.MULTILINE)
_SECTION = re.compile(r"^(?:Args|Attributes|Raises|Returns|Yields):$", re.MULTILINE)


def docstrings(program: str) -> Iterator[str]:
    """Each docstring, also of attributes and constants, as prose in Markdown: each argument and attribute is an item of a list."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text = _ROLE.sub("", inspect.cleandoc(node.value.value)).replace("``", "`")
            yield _SECTION.sub("", _FIELD.sub("* ", text))


def comments(program: str) -> Iterator[str]:
    """Each comment. Comments on lines that follow each other in one column are one text."""
    block: list[str] = []
    place = (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(program).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start != (place[0] + 1, place[1]):
                yield " ".join(block)
                block = []
            block.append(token.string.lstrip("#: "))
            place = token.start
    if block:
        yield " ".join(block)


@cache
def prose(path: Path) -> list[str]:
    """Each sentence of a page, or of a module's docstrings and comments."""
    text = path.read_text("utf-8")
    texts = [text] if path.suffix == ".md" else [*docstrings(text), *comments(text)]
    return [sentence for part in texts for sentence in sentences(part)]


def words(sentence: str) -> int:
    return sum(1 for word in sentence.split() if re.search(r"\w", word))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_sentences_are_split() -> None:
    text = "# A heading\n\nOne (`a. b`) is 1.5 ms. Two:\n\n"
    text += "* Three, see [four five](x.md). *Six.*\n  seven\n\n| no | table |\n\n```text\nno code.\n```\n"
    assert list(sentences(text)) == ["One (CODE) is 1.5 ms.", "Two:", "Three, see four five.", "*Six.* seven"]
    assert list(cells(text)) == ["no", "table"]


def test_docstrings_and_comments_are_found() -> None:
    program = 'def f(a):\n    """One, :class:`C`. Two ``b c``.\n\n    Args:\n        a: three\n            four.\n    """\n'
    program += '    # Five\n    # six.\n    x = 1  # seven\n\n\nCONSTANT = "no docstring"\n"""Eight."""\n'
    assert [sentence for text in docstrings(program) for sentence in sentences(text)] == [
        "Eight.",
        "One, CODE.",
        "Two CODE.",
        "a: three four.",
    ]
    assert [*comments(program)] == ["Five six.", "seven"]


def test_no_sentence_is_longer_than_a_reader_can_hold() -> None:
    long = [f"{name_of(path)}: {words(s)} words: {s}" for path in PROSE for s in prose(path) if words(s) > MOST_WORDS]
    assert long == []


def test_no_sentence_reads_like_a_translation() -> None:
    """Nor does a cell of a table."""
    found = [
        f"{name_of(path)}: {remedy}: {sentence}"
        for path in PROSE
        for sentence in (*prose(path), *(cells(path.read_text("utf-8")) if path.suffix == ".md" else ()))
        for pattern, remedy in NOT_PLAIN.items()
        if re.search(pattern, sentence)
    ]
    assert found == []


def test_the_classes_that_the_glossary_names_exist() -> None:
    program = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r"`([A-Z]\w+)` in the code", (ROOT / "docs" / "glossary.md").read_text("utf-8")))
    assert len(named) > 5
    assert {name for name in named if not re.search(rf"^class {name}\b", program, re.MULTILINE)} == set()


_PATH = re.compile(r"(?<![\w/.…-])((?:[\w.-]+/)+[\w.-]+\.py)\b")


def test_a_module_that_a_page_names_exists() -> None:
    """From the root of the repository, or from the package."""
    named = {(name_of(page), path) for page in PAGES for path in _PATH.findall(page.read_text("utf-8"))}
    assert len(named) > 50
    assert {(page, path) for page, path in named if not (ROOT / path).exists() and not (PACKAGE / path).exists()} == set()
