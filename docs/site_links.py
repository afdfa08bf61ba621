"""mkdocs hook: a link to a file of the repository outside `docs` becomes the path, since the site has no page for it."""

import re

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+)([^)#\s]*)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page, **_) -> str:
    """Replace `[text](../path)` with `text` and the path in code, unless the text is the path already."""

    def named(link: re.Match) -> str:
        text, path = link[1], link[3]
        return text if path.strip("/") in text else f"{text} (`{path}`)"

    return LINK.sub(named, markdown)
