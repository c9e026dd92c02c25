"""Reads a page of a report."""

from html.parser import HTMLParser
from typing import Any

from report_cases import report

from lightning_sfl.report.html_file import to_html

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use", "rect", "line"}
ATTACK = "<script>alert('x')</script>&\"'"


class Page(HTMLParser):
    """The tags with their attributes, the texts, the cells of every table row, and what is folded away."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.classes_of_rows: list[str | None] = []
        self.folded: list[str] = []
        self.folded_images: list[int] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []  # every tag was closed

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
            self.classes_of_rows.append(dict(attrs).get("class"))
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "details":
            self.folded.append("")
            self.folded_images.append(0)
        if tag == "img" and "details" in self._open:
            self.folded_images[-1] += 1
        if tag == "br":
            self.handle_data(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self._open.pop() == tag
        if tag == "dt":
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data
        if "details" in self._open:
            self.folded[-1] += data

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def costs(self) -> list[list[str]]:
        """The first table, its heading first."""
        return tidy(self.tables[0])

    @property
    def leakage(self) -> list[list[str]]:
        """The second table, its heading first."""
        return tidy(self.tables[1])

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def tidy(rows: list[list[str]]) -> list[list[str]]:
    return [[" ".join(cell.split()) for cell in cells] for cells in rows]


def page(*rows: Any, **changes: Any) -> Page:
    return Page(to_html(report(*rows, **changes)))
