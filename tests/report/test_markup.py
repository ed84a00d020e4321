"""Nothing a stranger wrote becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.markup import element, foreign, join, language_tag, shown, style_sheet

NASTY = [
    "<script>alert(1)</script>",
    "</bdi></style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "<!-- --!> <![CDATA[ ]]>",
    "&lt;script&gt; &#x3c;b&#x3e; &amp",
    "javascript:alert(1)",
    "\u202egpj.exe \u2066isolated",
    "nul \0 bell \a escape \x1b[31m lone \ud800",
]


class Parsed(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data!r}")


@given(st.text(max_size=60) | st.sampled_from(NASTY))
def test_text_and_attributes_stay_what_they_are(text: str) -> None:
    page = Parsed(element("p", text, foreign(text, 60), title=text, class_="a"))
    assert [tag for tag, _ in page.tags] == ["p", "bdi"]
    assert set(page.tags[0][1]) == {"title", "class"}
    plain = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    if "\ud800" <= max(text, default="") <= "\udfff" or "\0" in text:
        return  # the parser's own replacements
    assert page.text.replace("\r\n", "\n").replace("\r", "\n").startswith(plain)


@pytest.mark.parametrize("text", NASTY)
def test_shown_text_is_printable_and_turns_nothing_about(text: str) -> None:
    found = shown(f"{text}\n\tand more")
    assert found.isprintable()
    assert not set(found) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    found.encode()


def test_marks_that_hebrew_needs_stay() -> None:
    assert shown("שלום\u200f!") == "שלום\u200f!"


def test_long_text_is_cut() -> None:
    assert shown("word " * 1000, 20) == "word word word word…"
    assert len(shown("x" * 10**7, 50)) == 50


def test_children_of_all_kinds() -> None:
    assert join("<", 3, 2.5, None, ["a", element("b", "&")]) == "&lt;32.5a<b>&amp;</b>"
    assert element("audio", controls=True, loop=False, src=None) == "<audio controls></audio>"
    assert element("meta", name="viewport", content="x") == '<meta name="viewport" content="x">'


@pytest.mark.parametrize("name", ["p onclick", "<p", "", "1p"])
def test_names_are_names(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        element(name)


def test_a_style_sheet_cannot_end_early() -> None:
    with pytest.raises(ValueError, match="ends"):
        style_sheet("</style><script>")


@pytest.mark.parametrize(
    ("language", "tag"), [("pt-BR", "pt-BR"), ("en", "en"), ('en" x="', None), (None, None), ("", None)]
)
def test_language_tags(language: str | None, tag: str | None) -> None:
    assert language_tag(language) == tag
