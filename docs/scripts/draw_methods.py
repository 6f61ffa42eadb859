"""Draws docs/images/<method>.svg, one diagram a method in one visual language.

Squares are patches; hatched ones are hidden. A solid box is trained, a dashed one follows as a
moving average, a dotted one is frozen; the thick outline is what you keep. Dashed arrows carry no
gradient. Each picture brings its own light card, so that it reads the same on dark pages.

    python docs/scripts/draw_methods.py
"""

import random
from html import escape
from pathlib import Path

INK, SOFT, CARD = "#22313a", "#5d6b74", "#fbfaf6"
TEAL, AMBER, ROSE, BLUE = "#bfe3dc", "#f6dfae", "#f6c9c6", "#cfdcf2"
CELL, SIDE = 13, 6
#: A digit seven on a 6x6 grid, which no mask of ours hides completely.
SEVEN = {(1, 1), (1, 2), (1, 3), (1, 4), (2, 4), (3, 3), (4, 2), (5, 2)}
IMAGES = Path(__file__).parents[1] / "images"


class Drawing:
    """SVG elements in the order they are drawn, and the size of their card."""

    def __init__(self, width: int, height: int, title: str, about: str) -> None:
        self.size, self.title, self.about = (width, height), title, about
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, size: int = 13, colour: str = INK) -> None:
        """Words around the point (x, y), one line each."""
        for i, line in enumerate(words.split("\n")):
            self.parts.append(
                f'<text x="{x}" y="{y + i * (size + 3)}" font-size="{size}" fill="{colour}" '
                f'text-anchor="middle">{escape(line)}</text>'
            )

    def box(self, x: float, y: float, words: str, colour: str, kind: str = "trained") -> None:
        """A network of 104 x 46 around (x, y); kind: trained, average, frozen or kept."""
        dash = {"average": ' stroke-dasharray="6 4"', "frozen": ' stroke-dasharray="2 3"'}
        thick = 3.2 if kind.startswith("kept") else 1.4
        style = dash.get("average" if kind == "kept average" else kind, "")
        self.parts.append(
            f'<rect x="{x - 52}" y="{y - 23}" width="104" height="46" rx="7" fill="{colour}" '
            f'stroke="{INK}" stroke-width="{thick}"{style}/>'
        )
        lines = words.count("\n")
        self.text(x, y + 4.5 - 8 * lines, words)

    def pill(self, x: float, y: float, words: str, width: int = 112) -> None:
        """A loss."""
        lines = words.count("\n")
        height = 30 + 16 * lines
        self.parts.append(
            f'<rect x="{x - width / 2}" y="{y - height / 2}" width="{width}" height="{height}" '
            f'rx="{height / 2}" fill="{ROSE}" stroke="{INK}" stroke-width="1.4"/>'
        )
        self.text(x, y + 4.5 - 8 * lines, words)

    def arrow(self, *points: tuple[float, float], gradient: bool = True, label: str = "") -> None:
        """A line through the points with a head at the last; dashed where no gradient flows."""
        path = " ".join(f"{x},{y}" for x, y in points)
        dash = "" if gradient else ' stroke-dasharray="5 4"'
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{SOFT}" stroke-width="1.8"{dash} '
            'marker-end="url(#head)"/>'
        )
        if label:
            (x0, y0), (x1, y1) = points[0], points[-1]
            self.text((x0 + x1) / 2, (y0 + y1) / 2 - 7, label, 11, SOFT)

    def patches(
        self, x: float, y: float, words: str, hidden: float = 0, seed: int = 3, **look: object
    ) -> None:
        """An image of 6x6 patches around (x, y); look: block, shift, warm, marks, only_hidden."""
        block, shift = int(look.get("block", 1)), int(look.get("shift", 0))  # type: ignore[call-overload]
        cells = [(r, c) for r in range(0, SIDE, block) for c in range(0, SIDE, block)]
        chosen = random.Random(seed).sample(cells, round(hidden * len(cells)))
        gone = {(r + i, c + j) for r, c in chosen for i in range(block) for j in range(block)}
        if look.get("only_hidden"):
            gone = {(r, c) for r in range(SIDE) for c in range(SIDE)} - gone
        left, top = x - SIDE * CELL / 2, y - SIDE * CELL / 2
        for row in range(SIDE):
            for col in range(SIDE):
                ink = (row, col + shift) in SEVEN
                fill = _colour(ink, bool(look.get("warm")), (row, col) in gone)
                marked = look.get("marks") and (row, col) not in gone
                fill = (AMBER if ink else BLUE) if marked else fill
                self.parts.append(
                    f'<rect x="{left + col * CELL}" y="{top + row * CELL}" width="{CELL - 1}" '
                    f'height="{CELL - 1}" fill="{fill}"/>'
                )
                if marked:
                    number = random.Random(row * SIDE + col + ink * 50).randint(10, 99)
                    self.text(left + col * CELL + 6, top + row * CELL + 9.5, str(number), 8)
        self.text(x, y + SIDE * CELL / 2 + 16, words, 12, SOFT)

    def write(self, name: str) -> None:
        """Save it below docs/images."""
        width, height = self.size
        legend = (
            '<g font-size="11" fill="' + SOFT + '">'
            f'<rect x="24" y="{height - 30}" width="20" height="13" rx="3" fill="{TEAL}" '
            f'stroke="{INK}" stroke-width="3.2"/><text x="50" y="{height - 19}">kept</text>'
            f'<rect x="96" y="{height - 30}" width="20" height="13" rx="3" fill="none" '
            f'stroke="{INK}" stroke-dasharray="6 4"/><text x="122" y="{height - 19}">moving '
            f'average</text><rect x="226" y="{height - 30}" width="13" height="13" '
            f'fill="url(#hatch)"/><text x="246" y="{height - 19}">hidden patch</text>'
            f'<line x1="338" y1="{height - 23}" x2="366" y2="{height - 23}" stroke="{SOFT}" '
            f'stroke-width="1.8" stroke-dasharray="5 4"/><text x="373" y="{height - 19}">no '
            "gradient</text></g>"
        )
        text = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'aria-labelledby="title about" font-family="system-ui, sans-serif">\n'
            f'<title id="title">{escape(self.title)}</title>\n'
            f'<desc id="about">{escape(self.about)}</desc>\n'
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{SOFT}"/></marker>'
            '<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><rect width="5" height="5" fill="#e6e5e0"/>'
            '<rect width="1.6" height="5" fill="#b9bbb9"/></pattern></defs>\n'
            f'<rect width="{width}" height="{height}" rx="12" fill="{CARD}"/>\n'
            + "\n".join(self.parts)
            + f"\n{legend}\n</svg>\n"
        )
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / f"{name}.svg").write_text(text, encoding="utf-8")


def _colour(ink: bool, warm: bool, gone: bool) -> str:
    if gone:
        return "url(#hatch)"
    if warm:
        return "#8a4b7d" if ink else "#f0c27b"
    return "#1f6f78" if ink else "#bcd6d0"


def mae() -> None:
    """Hide, encode what is left, decode, compare."""
    d = Drawing(880, 215, "MAE", "Visible patches go through the encoder; a decoder predicts the "
                "pixels of hidden ones, which are compared with the image.")  # fmt: skip
    d.patches(80, 75, "75 % hidden", 0.75)
    d.arrow((125, 75), (193, 75), label="visible")
    d.box(247, 75, "encoder", TEAL, "kept")
    d.arrow((300, 75), (373, 75), label="+ masks")
    d.box(427, 75, "decoder", AMBER)
    d.arrow((480, 75), (535, 75))
    d.patches(580, 75, "predicted pixels")
    d.arrow((625, 75), (665, 75))
    d.pill(720, 75, "pixel loss", 104)
    d.arrow((808, 75), (774, 75), gradient=False)
    d.text(844, 72, "hidden\npixels", 12, SOFT)
    d.write("mae")


def cmae() -> None:
    """MAE above, a momentum branch on a shifted view below."""
    d = Drawing(960, 385, "CMAE", "An MAE whose second decoder's mean feature must find the "
                "momentum encoder's feature of a shifted complete view.")  # fmt: skip
    d.patches(75, 120, "65 to 75 % hidden", 0.66, 5, block=2)
    d.arrow((120, 120), (178, 120))
    d.box(231, 120, "encoder", TEAL, "kept")
    d.arrow((284, 112), (320, 65), (342, 65))
    d.box(396, 65, "pixel\ndecoder", AMBER)
    d.arrow((449, 65), (817, 65))
    d.pill(874, 65, "pixel loss")
    d.arrow((284, 128), (320, 165), (342, 165))
    d.box(396, 165, "feature\ndecoder", AMBER)
    d.arrow((449, 165), (502, 165), label="mean")
    d.box(556, 165, "projector", BLUE)
    d.arrow((609, 165), (642, 165))
    d.box(696, 165, "predictor", BLUE)
    d.arrow((749, 165), (874, 165), (874, 211))
    d.text(812, 157, "q", 13)
    d.pill(874, 236, "contrast\nin the batch", 124)
    d.patches(75, 285, "complete, shifted", shift=1, warm=True)
    d.arrow((120, 285), (178, 285))
    d.box(231, 285, "target\nencoder", TEAL, "average")
    d.arrow((231, 144), (231, 261), gradient=False)
    d.arrow((284, 285), (502, 285), label="mean of patches")
    d.box(556, 285, "target\nprojector", BLUE, "average")
    d.arrow((556, 189), (556, 261), gradient=False)
    d.arrow((609, 285), (874, 285), (874, 262), gradient=False)
    d.text(812, 278, "k", 13)
    d.write("cmae")


def cmae_mao() -> None:
    """Two masked views, a small decoder, two tasks for the encoder."""
    d = Drawing(960, 385, "CMAE of Mao et al.", "Two crops, both masked; the encoder also predicts "
                "where its patches lie and matches the two crops.")  # fmt: skip
    d.patches(75, 75, "crop 1, 75 % hidden", 0.75, 2)
    d.patches(75, 190, "crop 2, 75 % hidden", 0.75, 2, shift=1, warm=True)
    d.arrow((120, 75), (150, 120), (178, 128))
    d.arrow((120, 190), (150, 145), (178, 136))
    d.box(231, 132, "encoder", TEAL, "kept")
    d.arrow((284, 122), (320, 60), (342, 60))
    d.box(396, 60, "small\ndecoder", AMBER)
    d.arrow((449, 60), (817, 60))
    d.pill(874, 60, "pixel loss")
    d.arrow((284, 132), (342, 132))
    d.box(396, 132, "position\nhead", BLUE)
    d.arrow((449, 132), (807, 132))
    d.pill(874, 132, "place of each\nvisible patch", 132)
    d.arrow((284, 142), (320, 204), (342, 204))
    d.box(396, 204, "projector,\npredictor", BLUE)
    d.text(312, 222, "class\ntoken", 11, SOFT)
    d.arrow((449, 204), (874, 204), (874, 231))
    d.text(660, 197, "q of one crop", 12, SOFT)
    d.pill(874, 257, "contrast\nin the batch", 124)
    d.arrow((75, 250), (75, 300), (178, 300))
    d.text(122, 290, "the other crop", 11, SOFT)
    d.box(231, 300, "target\nencoder", TEAL, "average")
    d.arrow((231, 156), (231, 276), gradient=False)
    d.arrow((284, 300), (342, 300))
    d.box(396, 300, "target\nprojector", BLUE, "average")
    d.arrow((449, 300), (874, 300), (874, 283), gradient=False)
    d.text(660, 293, "k of the other crop", 12, SOFT)
    d.write("cmae_mao")


def conmim() -> None:
    """Each hidden patch is looked for among all patches of its image."""
    d = Drawing(960, 335, "ConMIM", "The projection of each hidden patch must find its own place "
                "among the momentum network's projections of the same image.")  # fmt: skip
    d.patches(75, 75, "75 % hidden", 0.75, 4, block=2)
    d.arrow((120, 75), (208, 75), label="all places")
    d.box(262, 75, "encoder\n(BEiT)", TEAL)
    d.arrow((315, 75), (383, 75))
    d.box(437, 75, "projector", BLUE)
    d.arrow((490, 75), (565, 75))
    d.patches(612, 75, "q: hidden places only", 0.75, 4, block=2, marks=True, only_hidden=True)
    d.arrow((658, 75), (820, 75), (820, 122))
    d.pill(820, 157, "which patch of\nthis image\nwas it?", 150)
    d.patches(75, 225, "stronger colours", warm=True)
    d.arrow((120, 225), (208, 225))
    d.box(262, 225, "target\nencoder", TEAL, "kept average")
    d.arrow((262, 99), (262, 200), gradient=False)
    d.arrow((315, 225), (383, 225))
    d.box(437, 225, "target\nprojector", BLUE, "average")
    d.arrow((437, 99), (437, 201), gradient=False)
    d.arrow((490, 225), (565, 225), gradient=False)
    d.patches(612, 225, "k: all places", marks=True)
    d.arrow((658, 225), (820, 225), (820, 191), gradient=False)
    d.write("conmim")


def supmim() -> None:
    """Labels on complete images, tokens on masked ones, one encoder."""
    d = Drawing(960, 405, "SupMIM", "The encoder learns classes from complete images and, with a "
                "shallow decoder, predicts the tokens of hidden patches.")  # fmt: skip
    d.patches(75, 70, "complete")
    d.arrow((120, 70), (208, 70))
    d.box(262, 70, "encoder", TEAL, "kept")
    d.arrow((315, 70), (403, 70), label="mean")
    d.box(457, 70, "class head", BLUE)
    d.arrow((510, 70), (804, 70))
    d.pill(860, 70, "class loss")
    d.patches(75, 190, "75 % hidden", 0.75, 6)
    d.arrow((120, 190), (208, 190), label="visible")
    d.box(262, 190, "the same\nencoder", TEAL, "kept")
    d.arrow((262, 95), (262, 163))
    d.arrow((315, 190), (403, 190), label="+ masks")
    d.box(457, 190, "shallow\ndecoder", AMBER)
    d.arrow((510, 190), (575, 190))
    d.patches(622, 190, "predicted tokens", 0.75, 6, marks=True, only_hidden=True)
    d.arrow((668, 190), (802, 190))
    d.pill(860, 190, "token loss")
    d.patches(75, 310, "complete")
    d.arrow((120, 310), (403, 310))
    d.box(457, 310, "tokenizer", AMBER, "frozen")
    d.arrow((510, 310), (575, 310), gradient=False)
    d.patches(622, 310, "tokens", marks=True)
    d.arrow((668, 310), (860, 310), (860, 208), gradient=False)
    d.write("supmim")


if __name__ == "__main__":
    for draw in (mae, cmae, cmae_mao, conmim, supmim):
        draw()
