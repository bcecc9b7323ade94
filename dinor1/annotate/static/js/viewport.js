// The visible part of the image: a scale, and an offset in pixels of the screen.

const MAX_SCALE = 40;
const MARGIN = 16;

export class Viewport {
  scale = 1;
  x = 0;
  y = 0;
  #screen = [1, 1];
  #image = [1, 1];
  #isFitted = true;

  toScreen([x, y]) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }

  toImage([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  setScreen(size) {
    this.#screen = size;
    if (this.#isFitted) this.fit();
    else this.#limit();
  }

  setImage(size) {
    this.#image = size;
    this.fit();
  }

  /** Show the whole image. */
  fit() {
    const [width, height] = this.#screen;
    this.scale = this.#fitScale();
    this.x = (width - this.#image[0] * this.scale) / 2;
    this.y = (height - this.#image[1] * this.scale) / 2;
    this.#isFitted = true;
  }

  /** Multiply the scale; the part of the image at a point of the screen stays there. */
  zoom(factor, point = [this.#screen[0] / 2, this.#screen[1] / 2]) {
    const fixed = this.toImage(point);
    const smallest = Math.min(this.#fitScale(), 1);
    this.scale = Math.min(Math.max(this.scale * factor, smallest), MAX_SCALE);
    this.x = point[0] - fixed[0] * this.scale;
    this.y = point[1] - fixed[1] * this.scale;
    this.#isFitted = false;
    this.#limit();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#isFitted = false;
    this.#limit();
  }

  /** Pan by the smallest distance that makes a box visible. */
  reveal([x1, y1, x2, y2]) {
    const [left, top] = this.toScreen([x1, y1]);
    const [right, bottom] = this.toScreen([x2, y2]);
    const shift = (low, high, size) => {
      if (high - low > size - 2 * MARGIN) return size / 2 - (low + high) / 2;
      return Math.max(MARGIN - low, 0) || Math.min(size - MARGIN - high, 0);
    };
    if (this.#isFitted) return;
    this.pan(shift(left, right, this.#screen[0]), shift(top, bottom, this.#screen[1]));
  }

  #fitScale() {
    const [width, height] = this.#screen;
    const room = [Math.max(width - 2 * MARGIN, 1), Math.max(height - 2 * MARGIN, 1)];
    return Math.min(room[0] / this.#image[0], room[1] / this.#image[1], 8);
  }

  /** Keep the image visible: centred if it is smaller than the screen, otherwise without an empty border. */
  #limit() {
    const limit = (offset, image, screen) => {
      const free = screen - image * this.scale;
      if (free > -2 * MARGIN) return free / 2;
      return Math.min(Math.max(offset, free - MARGIN), MARGIN);
    };
    this.x = limit(this.x, this.#image[0], this.#screen[0]);
    this.y = limit(this.y, this.#image[1], this.#screen[1]);
  }
}
