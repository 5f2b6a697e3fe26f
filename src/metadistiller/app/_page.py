"""The page: Gradio's components, and what happens when one is touched."""

import functools
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from . import _fragments as html
from ._shown import Answer, Shown, check_threshold, thumbnail

if TYPE_CHECKING:
    import gradio

SUFFIXES = [".jpg", ".jpeg", ".png", ".bmp", ".webp"]
_THUMBNAIL = 96  # pixels, at least


class Pages:
    """What the page's components call; everything but the components, so that it can be asked without a server.

    Args:
        runs: one or two, with the same classes.
    """

    def __init__(self, runs: Sequence[Shown]) -> None:
        self.runs = runs

    def from_file(self, path: str | None, threshold: float, own: bool) -> tuple[list[Answer], str]:
        """Answers to keep, and what is shown of them, for a file that somebody dropped; None where it was removed."""
        if path is None:
            return [], html.hint()
        try:
            found = [run.answer(run.read(path)) for run in self.runs]
        except DataError as error:
            return [], html.problem(f"{error}.")
        return found, self.told(found, threshold, own)

    def from_example(self, place: int, threshold: float, own: bool) -> tuple[list[Answer], str]:
        """The same for one of the test images."""
        label, pixels = self.runs[0].examples[place]
        found = [run.answer(run.fitted(pixels), label) for run in self.runs]
        return found, self.told(found, threshold, own)

    def told(self, found: Sequence[Answer], threshold: float, own: bool) -> str:
        if not found:
            return html.hint()
        try:
            policies = [run.policy(threshold, own=own) for run in self.runs]
        except ConfigError as error:
            return html.problem(f"{error}.")
        return html.answers(self.runs, found, policies)

    def at(self, threshold: float, own: bool) -> str:
        """What a threshold does to the test set."""
        try:
            return html.thresholds(self.runs, [run.policy(threshold, own=own) for run in self.runs])
        except ConfigError as error:
            return html.problem(f"{error}.")


def build(runs: Sequence[Shown], threshold: float) -> "gradio.Blocks":
    """Raises: ConfigError where the threshold is not 0 to 1."""
    import gradio as gr

    check_threshold(threshold)
    pages = Pages(runs)
    exits = any(run.num_exits for run in runs)
    private = functools.partial(_listen, api_visibility="private", show_progress="minimal")
    page: gradio.Blocks = gr.Blocks(
        title=html.printable(" and ".join(run.name for run in runs)), analytics_enabled=False
    )
    with page:
        found = gr.State([])
        gr.HTML(html.head(runs))
        with gr.Group(visible=exits):
            slider = gr.Slider(
                0,
                1,
                threshold,
                step=0.01,
                label="An early exit answers from this probability on",
                interactive=True,
            )
            own = gr.Checkbox(
                False,
                label="thresholds of 'metadistiller calibrate' instead",
                visible=any(run.calibrated for run in runs),
            )
        with gr.Tabs():
            with gr.Tab("Picture"), gr.Row():
                with gr.Column(scale=1, min_width=240):
                    file = gr.File(label="A picture", file_types=SUFFIXES, height=130, elem_id="picture")
                    gr.HTML("<p class='md-soft'>or one of the test images:</p>")
                    gallery = gr.Gallery(
                        [
                            (thumbnail(pixels, _THUMBNAIL), html.printable(runs[0].classes[label]))
                            for label, pixels in runs[0].examples
                        ],
                        show_label=False,
                        columns=4,
                        height="auto",
                        allow_preview=False,
                        interactive=False,
                        object_fit="contain",
                        format="png",
                        buttons=[],
                        elem_id="examples",
                    )
                with gr.Column(scale=3, min_width=240):
                    shown = gr.HTML(html.hint(), elem_id="answer")
            with gr.Tab("Threshold", visible=exits):
                measured = gr.HTML(pages.at(threshold, False) if exits else "", elem_id="threshold")
            with gr.Tab("Mistakes"):
                gr.HTML(html.mistakes(runs), elem_id="mistakes")

        def chosen(threshold: float, own: bool, event: gr.SelectData) -> tuple[list[Answer], str]:
            return pages.from_example(int(event.index), threshold, own)

        def moved(found: list[Answer], threshold: float, own: bool) -> tuple[str, str]:
            return pages.told(found, threshold, own), pages.at(threshold, own)

        def freed(own: bool) -> gr.Slider:
            # Where every run goes by its own thresholds the slider moves nothing.
            return gr.Slider(interactive=not own or any(run.num_exits and not run.calibrated for run in runs))

        private(file.upload, pages.from_file, [file, slider, own], [found, shown])
        private(file.clear, pages.from_file, [file, slider, own], [found, shown])
        private(gallery.select, chosen, [slider, own], [found, shown])
        private(slider.change, moved, [found, slider, own], [shown, measured], trigger_mode="always_last")
        private(own.change, moved, [found, slider, own], [shown, measured])
        private(own.change, freed, own, slider)
    return page


def _listen(event: Callable[..., Any], function: Callable[..., Any], inputs: Any, outputs: Any, **more: Any) -> None:
    event(function, inputs, outputs, **more)


def look() -> dict[str, Any]:
    """Theme and style, for the server; fonts of the reader's machine, for a page that asks no other host."""
    import gradio as gr

    fonts, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    theme = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=mono)
    return {"theme": theme, "css": (files(__package__) / "page.css").read_text(encoding="utf-8")}
