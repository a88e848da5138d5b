"""A matplotlib figure that shows itself in a notebook.

IPython learns to draw a `Figure` only once somebody has imported pyplot, whose global state no
thread may share; without it a cell shows `<Figure size 640x480 with 1 Axes>` and no picture.
"""

from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that a notebook shows although nobody has imported pyplot."""

    def _repr_png_(self) -> tuple[bytes, dict]:
        FigureCanvasAgg(self)
        with BytesIO() as file:
            self.savefig(file, format="png", dpi=2 * self.dpi)  # sharp on dense screens
            return file.getvalue(), {"width": int(self.get_figwidth() * self.dpi)}
