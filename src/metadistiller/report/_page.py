"""The pages: sections put into the templates."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from ._run import Run
from ._sections import Section, sections_of, title_of
from ._tables import headline


def render(run: Run) -> str:
    """The page of one run as HTML."""
    return page(title_of(run), headline(run), sections_of(run))


def page(title: str, line: str, sections: list[Section]) -> str:
    """A page with a table of contents.

    Args:
        title: in the head and as the first heading.
        line: below it, the result in a sentence.
    """
    # Class names come from folder names, which anyone may have chosen: everything is escaped.
    pages = Environment(
        loader=PackageLoader("metadistiller", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template("page.html.j2").render(title=title, headline=line, sections=sections)
