r"""Make the images of the page of `dinor1 annotate` in docs/images: five screenshots and a short recording.

Example:
    python tools/misc/annotate_screenshots.py --out-dir docs/images

The script uses the page in the chromium of the system, with photographs of coins (scikit-image, no known copyright
restrictions) and the released detector. Requires: pip install -e '.[dev]' scikit-image, and chromium.
"""

import argparse
import io
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

from dinor1.cli.exit_status import run_command
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path

# A coin of the first photograph, x1, y1, x2, y2 in pixels.
COIN, SIZE = (191, 29, 241, 74), (384, 303)
THRESHOLD = 0.25
POINTER = ((0, 0), (0, 17), (4, 13), (7, 19), (10, 18), (7, 12), (12, 12))


def write_photographs(folder: Path) -> None:
    """Write the photograph of coins, mirrored and rotated copies, and its quarters."""
    from skimage import data

    whole = cv2.cvtColor(data.coins(), cv2.COLOR_GRAY2BGR)
    height, width = whole.shape[:2]
    # Make mirrored and rotated copies.
    images = [whole, whole[:, ::-1], cv2.rotate(whole, cv2.ROTATE_180), cv2.rotate(whole, cv2.ROTATE_90_CLOCKWISE)]
    # Cut out the four corners.
    rows, columns = (slice(0, 160), slice(height - 160, height)), (slice(0, 200), slice(width - 200, width))
    images += [whole[y, x] for y in rows for x in columns]
    for i, image in enumerate(images, 1):
        cv2.imwrite(str(folder / f'coins_{i}.png'), image)


@contextmanager
def running_page(folder: Path) -> Iterator[str]:
    """Start the page of a folder; yields its address."""
    command = [sys.executable, '-m', 'dinor1', 'annotate', str(folder), '--no-browser']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield next(line.split()[1] for line in process.stdout if line.startswith('Page: '))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


class Recorder:
    """Screenshots of a page as frames of an animated image, with the pointer.

    Args:
        page: The page.
        scale: Size of the frames relative to the page.
    """

    def __init__(self, page: Page, scale: float) -> None:
        self._page, self._scale = page, scale
        self.pointer: tuple[float, float] | None = None
        self._frames: list[Image.Image] = []
        self._durations: list[int] = []

    def shot(self, milliseconds: int) -> None:
        """Add a frame that is shown for this time."""
        # Take a screenshot, and draw the pointer.
        frame = Image.open(io.BytesIO(self._page.screenshot())).convert('RGB')
        if self.pointer is not None:
            x, y = self.pointer
            outline = [(x + dx, y + dy) for dx, dy in POINTER]
            ImageDraw.Draw(frame).polygon(outline, fill='white', outline='black')
        # Scale the frame, and add it.
        size = (round(frame.width * self._scale), round(frame.height * self._scale))
        self._frames.append(frame.resize(size, Image.Resampling.LANCZOS))
        self._durations.append(milliseconds)

    def move(self, x: float, y: float, steps: int = 1, milliseconds: int = 120) -> None:
        """Move the pointer, with a frame per step."""
        start = self.pointer or (x, y)
        for i in range(1, steps + 1):
            self.pointer = (start[0] + (x - start[0]) * i / steps, start[1] + (y - start[1]) * i / steps)
            self._page.mouse.move(*self.pointer)
            self.shot(milliseconds)

    def save(self, path: Path) -> None:
        """Write the frames as a GIF with one palette, so that equal parts of frames stay equal."""
        # Compute one palette for every fourth frame.
        chosen = self._frames[::4]
        sheet = Image.new('RGB', (chosen[0].width, chosen[0].height * len(chosen)))
        for i, frame in enumerate(chosen):
            sheet.paste(frame, (0, i * frame.height))
        palette = sheet.quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        # Convert all frames to this palette.
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self._frames]
        with atomic_path(path) as temporary:
            frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=self._durations, loop=0)


def point(page: Page, x: float, y: float) -> tuple[float, float]:
    """Position on the page of a point of the first photograph, which is shown completely."""
    frame = page.locator('#canvas').bounding_box()
    scale = min((frame['width'] - 32) / SIZE[0], (frame['height'] - 32) / SIZE[1], 8)
    left, top = (frame['width'] - SIZE[0] * scale) / 2, (frame['height'] - SIZE[1] * scale) / 2
    return frame['x'] + left + x * scale, frame['y'] + top + y * scale


def wait_job(page: Page) -> None:
    """Wait until the search has ended."""
    page.wait_for_timeout(500)
    page.wait_for_selector('#job', state='hidden')
    page.wait_for_timeout(500)


def set_threshold(page: Page, value: float) -> None:
    """Move the slider."""
    page.locator('#threshold').fill(f'{value:.2f}')
    page.wait_for_timeout(150)


def hide_toasts(page: Page) -> None:
    """Close all messages."""
    for _ in range(page.locator('.toast').count()):
        page.locator('.toast button').first.click()


def save_screen(page: Page, path: Path) -> None:
    """Write a screenshot with a palette of 256 colours."""
    screen = Image.open(io.BytesIO(page.screenshot())).convert('RGB')
    with atomic_path(path) as temporary:
        screen.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(temporary, optimize=True)
    print(f'{path}: {path.stat().st_size / 1000:.0f} kB')


def record(page: Page, path: Path) -> None:
    """Record an animation: draw a box, find the other coins, accept them, and search all images."""
    # Draw a box around a coin.
    recorder = Recorder(page, 0.8)
    (x1, y1), (x2, y2) = point(page, *COIN[:2]), point(page, *COIN[2:])
    recorder.move(x1 - 60, y1 + 90)
    recorder.move(x1, y1, 3)
    page.mouse.down()
    recorder.move(x2, y2, 4)
    page.mouse.up()
    page.wait_for_timeout(700)
    recorder.shot(900)
    # Find the other coins.
    page.keyboard.press('f')
    page.wait_for_timeout(300)
    recorder.shot(500)
    wait_job(page)
    recorder.shot(1000)
    # Lower the threshold, and accept all proposals.
    slider = page.locator('#threshold').bounding_box()
    y = slider['y'] + slider['height'] / 2
    for value in (0.3, 0.29, 0.28, 0.27, 0.26, THRESHOLD):
        recorder.pointer = (slider['x'] + 8 + (slider['width'] - 16) * (value - 0.05) / 0.9, y)
        set_threshold(page, value)
        recorder.shot(200)
    recorder.shot(900)
    button = page.locator('[data-command=accept-all]').bounding_box()
    recorder.move(button['x'] + 40, button['y'] + 18, 3)
    page.mouse.click(button['x'] + 40, button['y'] + 18)
    page.wait_for_timeout(500)
    hide_toasts(page)
    recorder.shot(1000)
    # Finish the image, and search all others.
    page.keyboard.press('c')
    page.wait_for_timeout(900)
    recorder.shot(700)
    page.keyboard.press('Shift+F')
    page.wait_for_timeout(900)
    recorder.shot(500)
    page.wait_for_timeout(1500)
    recorder.shot(500)
    wait_job(page)
    hide_toasts(page)
    recorder.shot(2500)
    recorder.save(path)
    print(f'{path}: {path.stat().st_size / 1000:.0f} kB')


def draw_screens(page: Page, out_dir: Path) -> None:
    """Save the screenshots, which continue from the state after the recording."""
    # Show proposals on an image, and select one.
    page.set_viewport_size(dict(width=1280, height=800))
    page.wait_for_timeout(300)
    page.mouse.click(*point(page, 215, 130))
    page.wait_for_timeout(300)
    save_screen(page, out_dir / 'annotate_find.png')
    # Show a finished image in the dark mode.
    page.emulate_media(color_scheme='dark')
    page.keyboard.press('k')
    page.wait_for_timeout(900)
    save_screen(page, out_dir / 'annotate_dark.png')
    page.emulate_media(color_scheme='light')
    # Show the dialogs.
    page.keyboard.press('?')
    page.wait_for_timeout(300)
    save_screen(page, out_dir / 'annotate_help.png')
    page.keyboard.press('Escape')
    page.keyboard.press('Shift+S')
    page.wait_for_timeout(300)
    save_screen(page, out_dir / 'annotate_export.png')
    page.keyboard.press('Escape')
    # Show a small window.
    page.set_viewport_size(dict(width=800, height=600))
    page.keyboard.press('j')
    page.wait_for_timeout(900)
    save_screen(page, out_dir / 'annotate_small.png')


def main() -> None:
    """Draw all images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out-dir', type=Path, default=Path('docs/images'), help='folder (default: %(default)s)')
    args = parser.parse_args()
    # Find the browser.
    chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if chromium is None:
        raise InputError('chromium is not installed; apt-get install chromium')
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as driver:
        # Write the photographs.
        folder = Path(temporary) / 'coins'
        folder.mkdir()
        write_photographs(folder)
        with running_page(folder) as address:
            # Open the page, and add a class.
            browser = driver.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
            page = browser.new_page(viewport=dict(width=1100, height=690), color_scheme='light')
            page.set_default_timeout(300_000)
            page.goto(address)
            page.wait_for_selector('.list-row')
            page.locator('#classes input[type=text]').fill('coin')
            page.keyboard.press('Enter')
            page.wait_for_timeout(1500)
            # Record the animation, and draw the screens.
            record(page, args.out_dir / 'annotate.gif')
            draw_screens(page, args.out_dir)
            browser.close()


if __name__ == '__main__':
    run_command(main)
