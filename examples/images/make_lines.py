"""Made examples/images/lines.csv.gz: lines of print as images, every other one upside down. Run by hand; needs Pillow 12.0.0.

  make_lines.py OUT     each row: the text, whether it is upside down, its 48 x 192 gray pixels in hexadecimal, row by row
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 48, 192
TEXTS = """
Batch inference in SQL|where the data already is|scores by the hour|a whole user base|Loan no. 4711 approved|Invoice 2026-11-24
Total due: 1,284.50|Thank you for flying|Gate B17 closes 18:45|Table 12, two coffees|Fresh bread every day|Open from 9 to 17
Please mind the gap|Platform 4, departs 07:12|Handle with care|This side up|Sold to the lady in red|Room 101, first floor
Return to sender|Best before March|Made in Portugal|No entry for dogs|Push to open|Pay here
Last call for Lisbon|Order 66 is ready|Happy birthday, Ada|Chapter 3: The Sea|Keep out of reach|Shake well before use
""".strip()


def line(text: str, turned: bool) -> bytes:
    """A line of print that fills the width, as the classifier's training images do."""
    size = 34
    while True:
        font = ImageFont.load_default(size)
        left, top, right, bottom = font.getbbox(text)
        if right - left <= WIDTH - 8:
            break
        size -= 1
    image = Image.new("L", (WIDTH, HEIGHT), 235)
    draw = ImageDraw.Draw(image)
    draw.text(((WIDTH - right - left) / 2, (HEIGHT - bottom - top) / 2), text, fill=25, font=font)
    return (image.rotate(180) if turned else image).tobytes()


def main() -> None:
    texts = [text for row in TEXTS.splitlines() for text in row.split("|")]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    for place, text in enumerate(texts):
        turned = place % 2 == 1
        writer.writerow([text, "t" if turned else "f", "\\x" + line(text, turned).hex()])
    Path(sys.argv[1]).write_bytes(gzip.compress(table.getvalue().encode(), mtime=0))


if __name__ == "__main__":
    main()
