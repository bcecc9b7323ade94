// The image with its boxes: draw, select, move and resize boxes by pointer; zoom and pan.

import { textOn } from './dom.js';
import { area, between, contains, HANDLES, handlePoint, isLargeEnough, move, resize, rounded } from './geometry.js';
import { isVisible } from './model.js';
import { Viewport } from './viewport.js';

const HANDLE_SIZE = 8;
const GRAB = 9;
const CORNERS = ['nw', 'ne', 'se', 'sw'];
const CLICK_DISTANCE = 4;
const CURSORS = { nw: 'nwse', se: 'nwse', ne: 'nesw', sw: 'nesw', n: 'ns', s: 'ns', e: 'ew', w: 'ew' };

/**
 * Events: `draw` (detail: box), `edit` (detail: {id, bbox}), `select` (detail: id or null), `zoom`.
 */
export class ImageCanvas extends EventTarget {
  viewport = new Viewport();
  showLabels = true;
  #canvas;
  #context;
  #model;
  #document = null;
  #bitmap = null;
  #selected = null;
  #hovered = null;
  #gesture = null;
  #isPanKeyDown = false;
  #frame = 0;

  constructor(canvas, model) {
    super();
    this.#canvas = canvas;
    this.#context = canvas.getContext('2d');
    this.#model = model;
    new ResizeObserver(() => this.#resize()).observe(canvas);
    canvas.addEventListener('pointerdown', (event) => this.#down(event));
    canvas.addEventListener('pointermove', (event) => this.#moved(event));
    canvas.addEventListener('pointerup', (event) => this.#up(event));
    canvas.addEventListener('pointercancel', () => this.cancel());
    canvas.addEventListener('pointerleave', () => this.#hover(null));
    canvas.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.redraw());
  }

  /** Show an image; null: show no image, for example while it is being loaded. */
  show(document, bitmap) {
    const isNew = document?.id !== this.#document?.id || bitmap !== this.#bitmap;
    this.#document = document;
    this.#bitmap = bitmap;
    this.#gesture = null;
    if (isNew && document) this.viewport.setImage(document.size);
    this.redraw();
    this.#announceZoom();
  }

  select(id) {
    this.#selected = id;
    this.redraw();
  }

  zoom(factor) {
    this.viewport.zoom(factor);
    this.#announceZoom();
  }

  fit() {
    this.viewport.fit();
    this.#announceZoom();
  }

  pan(dx, dy) {
    this.viewport.pan(dx, dy);
    this.redraw();
  }

  reveal(bbox) {
    this.viewport.reveal(bbox);
    this.redraw();
  }

  /** While the key is held, dragging moves the image. */
  setPanKey(isDown) {
    this.#isPanKeyDown = isDown;
    this.#setCursor();
  }

  /** End a gesture without a change; returns whether there was a gesture. */
  cancel() {
    const had = this.#gesture !== null;
    this.#gesture = null;
    this.redraw();
    return had;
  }

  /** A box in the middle of the visible part of the image, for drawing by keyboard. */
  centralBox() {
    const { width, height } = this.#canvas.getBoundingClientRect();
    const [x1, y1] = this.viewport.toImage([width * 0.4, height * 0.4]);
    const [x2, y2] = this.viewport.toImage([width * 0.6, height * 0.6]);
    return rounded(between([x1, y1], [x2, y2], this.#document.size));
  }

  redraw() {
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  // ---------------------------------------------------------------- pointer

  #point(event) {
    const bounds = this.#canvas.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }

  #visibleBoxes() {
    return this.#document.boxes.filter((box) => isVisible(box, this.#model.threshold) || box.id === this.#selected);
  }

  /** The smallest visible box under a point of the image. */
  #boxAt(point) {
    const under = this.#visibleBoxes().filter((box) => contains(box.bbox, point));
    return under.sort((a, b) => area(a.bbox) - area(b.bbox))[0] ?? null;
  }

  #handleAt(screen) {
    const box = this.#document.box(this.#selected);
    if (!box) return null;
    const near = (handle) => {
      const [x, y] = this.viewport.toScreen(handlePoint(box.bbox, handle));
      return Math.max(Math.abs(x - screen[0]), Math.abs(y - screen[1])) <= GRAB;
    };
    // Test the corners first, because on a small box the handles of the edges overlap them.
    return [...CORNERS, 'n', 'e', 's', 'w'].find(near) ?? null;
  }

  #down(event) {
    if (!this.#document || this.#gesture) return;
    this.#canvas.focus({ preventScroll: true });
    this.#canvas.setPointerCapture(event.pointerId);
    const screen = this.#point(event);
    const start = this.viewport.toImage(screen);
    const selected = this.#document.box(this.#selected);
    const handle = this.#handleAt(screen);
    const common = { screen, start, last: screen, box: selected };
    if (event.button === 1 || event.button === 2 || this.#isPanKeyDown) this.#gesture = { ...common, kind: 'pan' };
    else if (event.button !== 0) return;
    else if (handle) this.#gesture = { ...common, kind: 'resize', handle };
    else if (selected && contains(selected.bbox, start) && !event.altKey) this.#gesture = { ...common, kind: 'move' };
    else this.#gesture = { ...common, kind: 'draw' };
    event.preventDefault();
  }

  #moved(event) {
    if (!this.#document) return;
    const screen = this.#point(event);
    if (!this.#gesture) {
      this.#hover(screen);
      return;
    }
    const gesture = this.#gesture;
    const distance = Math.hypot(screen[0] - gesture.screen[0], screen[1] - gesture.screen[1]);
    gesture.hasMoved ||= distance >= CLICK_DISTANCE;
    if (gesture.kind === 'pan') this.viewport.pan(screen[0] - gesture.last[0], screen[1] - gesture.last[1]);
    else if (gesture.hasMoved) gesture.bbox = this.#dragged(gesture, this.viewport.toImage(screen));
    gesture.last = screen;
    this.redraw();
  }

  /** The box that results from a gesture when the pointer is at a point of the image. */
  #dragged({ kind, start, box, handle }, point) {
    const size = this.#document.size;
    if (kind === 'resize') return resize(box.bbox, handle, point, size);
    if (kind === 'move') return move(box.bbox, point[0] - start[0], point[1] - start[1], size);
    return between(start, point, size);
  }

  #up(event) {
    const gesture = this.#gesture;
    this.#gesture = null;
    this.redraw();
    if (!gesture || !this.#document) return;
    if (gesture.kind === 'pan') this.#announceZoom();
    else if (!gesture.hasMoved) this.#click(gesture);
    else if (gesture.kind !== 'draw') this.#emit('edit', { id: gesture.box.id, bbox: rounded(gesture.bbox) });
    else if (isLargeEnough(gesture.bbox)) this.#emit('draw', rounded(gesture.bbox));
    this.#hover(this.#point(event));
  }

  /** Select the box under the pointer; repeated clicks cycle through overlapping boxes. */
  #click({ start }) {
    const under = this.#visibleBoxes().filter((box) => contains(box.bbox, start));
    under.sort((a, b) => area(a.bbox) - area(b.bbox));
    const position = under.findIndex((box) => box.id === this.#selected);
    this.#emit('select', under.length > 0 ? under[(position + 1) % under.length].id : null);
  }

  #wheel(event) {
    if (!this.#document) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    if (event.shiftKey) this.viewport.pan(-(event.deltaX + event.deltaY) * lines, 0);
    else this.viewport.zoom(Math.exp((-event.deltaY * lines) / 400), this.#point(event));
    this.#announceZoom();
  }

  #hover(screen) {
    const point = screen && this.#document ? this.viewport.toImage(screen) : null;
    const box = point ? this.#boxAt(point) : null;
    this.#setCursor(screen, point);
    if (box?.id === this.#hovered) return;
    this.#hovered = box?.id ?? null;
    this.redraw();
  }

  #setCursor(screen = null, point = null) {
    const selected = this.#document?.box(this.#selected);
    const handle = screen ? this.#handleAt(screen) : null;
    let cursor = 'crosshair';
    if (this.#isPanKeyDown) cursor = 'grab';
    else if (handle) cursor = `${CURSORS[handle]}-resize`;
    else if (selected && point && contains(selected.bbox, point)) cursor = 'move';
    this.#canvas.style.cursor = cursor;
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #announceZoom() {
    this.redraw();
    this.dispatchEvent(new Event('zoom'));
  }

  // ---------------------------------------------------------------- drawing

  #resize() {
    const { width, height } = this.#canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    this.#canvas.width = Math.max(1, Math.round(width * ratio));
    this.#canvas.height = Math.max(1, Math.round(height * ratio));
    this.viewport.setScreen([width, height]);
    this.#announceZoom();
  }

  #draw() {
    this.#frame = 0;
    const context = this.#context;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    if (!this.#document || !this.#bitmap) return;
    // Draw the image, without smoothing if pixels are large.
    const { scale, x, y } = this.viewport;
    const [width, height] = this.#document.size;
    context.imageSmoothingEnabled = scale < 3;
    context.imageSmoothingQuality = 'high';
    context.drawImage(this.#bitmap, x, y, width * scale, height * scale);
    // Draw the boxes, the selected box last.
    const drawn = this.#gesture?.bbox;
    const boxes = this.#visibleBoxes();
    for (const box of boxes) if (box.id !== this.#selected) this.#drawBox(box, box.bbox);
    const selected = boxes.find((box) => box.id === this.#selected);
    if (selected) this.#drawSelected(selected, this.#gesture?.kind !== 'draw' && drawn ? drawn : selected.bbox);
    if (drawn && this.#gesture.kind === 'draw') this.#drawNew(drawn);
  }

  #screenBox(bbox) {
    const [x1, y1] = this.viewport.toScreen(bbox);
    const [x2, y2] = this.viewport.toScreen([bbox[2], bbox[3]]);
    return [Math.round(x1), Math.round(y1), Math.round(x2 - x1), Math.round(y2 - y1)];
  }

  #drawBox(box, bbox, isSelected = false) {
    const context = this.#context;
    const color = this.#model.classOf(box.class_id)?.color ?? '#ffffff';
    const [x, y, width, height] = this.#screenBox(bbox);
    const isProposed = box.status === 'proposed';
    // A dark line below the coloured line makes it visible on every image.
    context.lineJoin = 'round';
    context.setLineDash([]);
    context.lineWidth = isSelected ? 5 : 4;
    context.strokeStyle = 'rgba(0, 0, 0, 0.45)';
    context.strokeRect(x, y, width, height);
    context.lineWidth = isSelected ? 3 : 2;
    context.strokeStyle = color;
    context.setLineDash(isProposed ? [6, 4] : []);
    context.strokeRect(x, y, width, height);
    context.setLineDash([]);
    if (isSelected || box.id === this.#hovered) {
      context.globalAlpha = 0.14;
      context.fillStyle = color;
      context.fillRect(x, y, width, height);
      context.globalAlpha = 1;
    }
    const isFocused = isSelected || box.id === this.#hovered;
    const hasRoom = width >= 34 && height >= 22;
    if (isFocused || (this.showLabels && hasRoom)) this.#drawLabel(box, color, x, y, isFocused ? Infinity : width);
  }

  /** Draw name and score above a box; only the score if space is limited, because the colour shows the class. */
  #drawLabel(box, color, x, y, room) {
    const context = this.#context;
    const name = this.#model.classOf(box.class_id)?.name ?? '?';
    const score = box.status === 'proposed' && box.score !== null ? box.score.toFixed(2) : '';
    context.font = '600 11px system-ui, sans-serif';
    const widthOf = (label) => Math.ceil(context.measureText(label).width) + 10;
    const full = score ? `${name} ${score}` : name;
    const text = score && widthOf(full) > room + 4 ? score : full;
    const width = widthOf(text);
    const top = y >= 17 ? y - 17 : y + 1;
    context.globalAlpha = 0.92;
    context.fillStyle = color;
    context.beginPath();
    context.roundRect(x - 1, top, width, 16, 3);
    context.fill();
    context.globalAlpha = 1;
    context.fillStyle = textOn(color);
    context.textBaseline = 'middle';
    context.fillText(text, x + 4, top + 8.5);
  }

  #drawSelected(box, bbox) {
    this.#drawBox(box, bbox, true);
    const context = this.#context;
    context.lineWidth = 1.5;
    // A small box only has space for the handles of its corners.
    const [, , width, height] = this.#screenBox(bbox);
    const isSmall = Math.min(width, height) < 4 * HANDLE_SIZE;
    for (const handle of isSmall ? CORNERS : HANDLES) {
      const [x, y] = this.viewport.toScreen(handlePoint(bbox, handle)).map(Math.round);
      context.fillStyle = '#ffffff';
      context.strokeStyle = '#1f2933';
      context.beginPath();
      context.rect(x - HANDLE_SIZE / 2, y - HANDLE_SIZE / 2, HANDLE_SIZE, HANDLE_SIZE);
      context.fill();
      context.stroke();
    }
  }

  /** Draw the new box of a gesture, with its size. */
  #drawNew(bbox) {
    const context = this.#context;
    const [x, y, width, height] = this.#screenBox(bbox);
    context.lineWidth = 4;
    context.strokeStyle = 'rgba(0, 0, 0, 0.5)';
    context.strokeRect(x, y, width, height);
    context.lineWidth = 2;
    context.strokeStyle = '#ffffff';
    context.strokeRect(x, y, width, height);
    const text = `${Math.round(bbox[2] - bbox[0])} × ${Math.round(bbox[3] - bbox[1])}`;
    context.font = '600 11px system-ui, sans-serif';
    const room = Math.ceil(context.measureText(text).width) + 10;
    context.fillStyle = 'rgba(0, 0, 0, 0.75)';
    context.beginPath();
    context.roundRect(x + width - room, y + height + 5, room, 17, 3);
    context.fill();
    context.fillStyle = '#ffffff';
    context.textBaseline = 'middle';
    context.fillText(text, x + width - room + 5, y + height + 14);
  }
}
