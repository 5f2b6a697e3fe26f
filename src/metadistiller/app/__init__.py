"""The page on which a run is tried in a browser (`metadistiller app RUN`), for this machine alone.

_shown.py     a run as the page asks it: answers to an image, what a threshold does, mistakes; knows no Gradio
_fragments.py all of that as HTML, through fragments.html.j2
_page.py      the page: Gradio's components and what happens when one is touched
_serving.py   a port, a server and an end
"""

from ._serving import serve
from ._shown import DEFAULT_THRESHOLD

__all__ = ["DEFAULT_THRESHOLD", "serve"]
