#!/usr/bin/env python3
"""Pictures of the mails of every template: what a phone and a wide window show, by day and by night, in both languages.

    tests/tools/template_pictures.py --tarishi target/release/tarishi [--chromium chromium] [--shots DIR] [TEMPLATE…]

Renders each template's sample with `tarishi template preview`, shows it in Debian's Chromium without a window, and writes the sheets
docs/pictures/templates-en.png and templates-sw.png. `--shots DIR` writes one picture per mail, width and scheme there instead, for
looking closely. Run it in the repository's root.
"""

import argparse
import html
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

LOCALES = {"en": "en-TZ", "sw": "sw-TZ"}
WIDTHS = (360, 800)
SCHEMES = {"light": 1, "dark": 0}
TALLEST = 2000
# Pixels of a sheet for one of a page: the least that Chromium takes. What is to be smaller is scaled in the page.
DENSITY = 0.5


def preview(tarishi, name, locale):
    command = [tarishi, "template", "preview", name, "--channel", "email", "--locale", locale, "--json"]
    environment = os.environ | {"TARISHI__TEMPLATES__DEFAULT_TIMEZONE": "Africa/Dar_es_Salaam"}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)[0]


def templates(tarishi):
    listed = subprocess.run([tarishi, "template", "list", "--json"], check=True, capture_output=True, text=True)
    return [one["name"] for one in json.loads(listed.stdout) if "email" in one["channels"]]


def chromium(program, page, width, height, scheme, *rest):
    with tempfile.TemporaryDirectory(prefix="template-pictures-") as profile:
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", f"--window-size={width},{height}", *rest, page.as_uri(),
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def host(folder, name, source, width, height):
    """A page with the mail in a frame of exactly this width: a window cannot be as narrow as a phone."""
    page = folder / f"{name}.html"
    frame = f'<iframe srcdoc="{html.escape(source)}" style="display:block;border:0;width:{width}px;height:{height}px"></iframe>'
    page.write_text(f'<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><style>body{{margin:0}}</style>{frame}')
    return page


def measured(arguments, folder, language, mails):
    """The height of each mail at each width. Ends with a complaint where one is wider than its window."""
    frames = "".join(
        f'<iframe title="{name} {width}" srcdoc="{html.escape(mail["html"])}" style="border:0;width:{width}px;height:400px"></iframe>'
        for name, mail in mails.items()
        for width in WIDTHS
    )
    script = """<script>addEventListener('load', () => {
      const told = [...document.querySelectorAll('iframe')].map(frame => {
        const page = frame.contentDocument;
        return `${frame.title} ${Math.ceil(page.body.getBoundingClientRect().height)} ${page.documentElement.scrollWidth}`;
      });
      document.body.textContent = told.join(';');
    })</script>"""
    page = folder / f"measure-{language}.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><body>{frames}{script}')
    dumped = chromium(arguments.chromium, page, 1000, 800, "light", "--dump-dom")
    heights = {name: {} for name in mails}
    for told in dumped.split("<body>")[1].split("</body>")[0].split(";"):
        name, width, height, needed = told.split()
        if int(needed) > int(width):
            sys.exit(f"{name} ({language}): is {needed} pixels wide in a window of {width}")
        heights[name][int(width)] = min(int(height), TALLEST)
    return heights


def size(picture):
    return struct.unpack(">II", picture.read_bytes()[16:24])


def sheet(arguments, folder, language, mails):
    """One picture of all mails of a language: a row each, narrow by day and by night, then wide by day and by night."""
    columns = [(width, scheme) for width in WIDTHS for scheme in SCHEMES]
    rows, top = [], 16
    gap, scale = 24, arguments.scale / DENSITY
    for name, (mail, heights) in mails.items():
        frames, left = [], gap
        tallest = max(heights.values())
        rows.append(f'<h2 style="position:absolute;left:{gap}px;top:{top}px">{name}: {html.escape(mail["subject"])}</h2>')
        for width, scheme in columns:
            # A frame takes the scheme of the element that holds it.
            style = f"position:absolute;left:{left}px;top:{top + 40}px;width:{width}px;height:{heights[width]}px;border:0;border-radius:8px;color-scheme:{scheme}"
            frames.append(f'<iframe srcdoc="{html.escape(mail["html"])}" style="{style}"></iframe>')
            left += width + gap
        rows += frames
        top += 40 + tallest + 40
    page = folder / f"sheet-{language}.html"
    page.write_text(
        '<!doctype html><meta charset="utf-8"><style>body{margin:0;background:#8b9692;font-family:sans-serif}'
        f"h2{{margin:0;font-size:22px;color:#0d1513}}div{{transform:scale({scale});transform-origin:0 0}}</style><div>{''.join(rows)}</div>"
    )
    picture = pathlib.Path("docs/pictures") / f"templates-{language}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    rest = (f"--screenshot={picture.resolve()}", f"--force-device-scale-factor={DENSITY}")
    chromium(arguments.chromium, page, round(left * scale), round(top * scale), "light", *rest)
    print(f"{picture}  {size(picture)[0]}x{size(picture)[1]}  {picture.stat().st_size // 1024} KiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tarishi", default="target/release/tarishi")
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--shots", type=pathlib.Path, help="one picture per mail, width and scheme, into this folder; no sheets")
    parser.add_argument("--scale", type=float, default=0.42, help="of the sheets")
    parser.add_argument("template", nargs="*")
    arguments = parser.parse_args()
    names = arguments.template or templates(arguments.tarishi)
    with tempfile.TemporaryDirectory(prefix="template-pictures-") as folder:
        folder = pathlib.Path(folder)
        for language, locale in LOCALES.items():
            mails = {name: preview(arguments.tarishi, name, locale) for name in names}
            heights = measured(arguments, folder, language, mails)
            mails = {name: (mail, heights[name]) for name, mail in mails.items()}
            if arguments.shots is None:
                sheet(arguments, folder, language, mails)
                continue
            arguments.shots.mkdir(parents=True, exist_ok=True)
            for name, (mail, heights) in mails.items():
                for width, height in heights.items():
                    for scheme in SCHEMES:
                        what = f"{name}-{language}-{width}-{scheme}"
                        page = host(folder, what, mail["html"], width, height)
                        picture = arguments.shots / f"{what}.png"
                        chromium(arguments.chromium, page, max(width, 500), height, scheme, f"--screenshot={picture.resolve()}")
                        print(picture)


if __name__ == "__main__":
    main()
