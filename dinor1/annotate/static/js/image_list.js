// The list of images. Only visible rows exist as elements, so that thousands of images take no time.

import { thumbnailAddress } from './api.js';
import { h } from './dom.js';

const ROW = 64;
const EXTRA = 4; // rows above and below
const STATES = { new: 'new', proposed: 'to check', checked: 'checked' };

/** Events: `choose` (detail: id). */
export class ImageList extends EventTarget {
  #model;
  #scroller;
  #spacer;
  #empty;
  #rows = new Map(); // id -> row
  #shown = [];
  #current = null;
  #text = '';
  #state = '';

  constructor(scroller, model) {
    super();
    this.#model = model;
    this.#scroller = scroller;
    this.#spacer = h('div', { class: 'list-spacer' });
    this.#empty = h('p', { class: 'empty', text: 'No image matches.', hidden: true });
    scroller.append(this.#spacer, this.#empty);
    scroller.addEventListener('scroll', () => this.#render());
    scroller.addEventListener('keydown', (event) => this.#key(event));
    new ResizeObserver(() => this.#render()).observe(scroller);
    model.addEventListener('images', () => this.update());
    model.addEventListener('threshold', () => this.#render());
  }

  get filtered() {
    return this.#shown;
  }

  setFilter(text, state) {
    this.#text = text.trim().toLowerCase();
    this.#state = state;
    this.update();
    this.#scroller.scrollTop = 0;
  }

  setCurrent(id) {
    this.#current = id;
    this.#reveal();
    this.#render();
  }

  update() {
    const matches = (image) =>
      (!this.#text || image.name.toLowerCase().includes(this.#text)) &&
      (!this.#state || image.state === this.#state || image.id === this.#current);
    this.#shown = this.#model.images.filter(matches);
    this.#spacer.style.height = `${this.#shown.length * ROW}px`;
    this.#empty.hidden = this.#shown.length > 0;
    this.#render();
  }

  /** The next or previous image for which `accept` is true. */
  neighbour(step, accept = () => true) {
    const start = this.#shown.findIndex((image) => image.id === this.#current);
    for (let i = start + step; i >= 0 && i < this.#shown.length; i += step) {
      if (accept(this.#shown[i])) return this.#shown[i];
    }
    return null;
  }

  #reveal() {
    const index = this.#shown.findIndex((image) => image.id === this.#current);
    if (index < 0) return;
    const { scrollTop, clientHeight } = this.#scroller;
    if (index * ROW < scrollTop) this.#scroller.scrollTop = index * ROW - ROW / 2;
    else if ((index + 1) * ROW > scrollTop + clientHeight) {
      this.#scroller.scrollTop = (index + 1.5) * ROW - clientHeight;
    }
  }

  #render() {
    const first = Math.max(0, Math.floor(this.#scroller.scrollTop / ROW) - EXTRA);
    const last = Math.ceil((this.#scroller.scrollTop + this.#scroller.clientHeight) / ROW) + EXTRA;
    const rows = new Map();
    this.#shown.slice(first, last).forEach((image, i) => {
      const row = this.#rows.get(image.id) ?? this.#makeRow(image);
      this.#fillRow(row, image, first + i);
      rows.set(image.id, row);
    });
    for (const [id, row] of this.#rows) if (!rows.has(id)) row.remove();
    for (const row of rows.values()) if (!row.parentNode) this.#spacer.append(row);
    this.#rows = rows;
    const hasCurrent = rows.has(this.#current);
    if (hasCurrent) this.#scroller.setAttribute('aria-activedescendant', `image-${this.#current}`);
    else this.#scroller.removeAttribute('aria-activedescendant');
  }

  #makeRow(image) {
    const thumbnail = h('img', { class: 'thumbnail', alt: '', loading: 'lazy', decoding: 'async', draggable: 'false' });
    thumbnail.addEventListener('error', () => thumbnail.classList.add('broken'));
    const row = h(
      'div',
      { class: 'list-row', role: 'option', id: `image-${image.id}`, on: { click: () => this.#choose(image.id) } },
      thumbnail,
      h('div', { class: 'list-text' }, h('span', { class: 'list-name' }), h('span', { class: 'list-counts' })),
      h('span', { class: 'state-dot' }),
    );
    return row;
  }

  #fillRow(row, image, index) {
    const [thumbnail, text, dot] = row.children;
    const address = thumbnailAddress(image);
    if (thumbnail.getAttribute('src') !== address) {
      thumbnail.classList.remove('broken');
      thumbnail.setAttribute('src', address);
    }
    row.style.transform = `translateY(${index * ROW}px)`;
    row.setAttribute('aria-selected', String(image.id === this.#current));
    row.setAttribute('aria-posinset', index + 1);
    row.setAttribute('aria-setsize', this.#shown.length);
    text.firstChild.textContent = image.name;
    text.firstChild.title = image.name;
    text.lastChild.textContent = this.#counts(image);
    dot.className = `state-dot ${image.state}`;
    dot.title = STATES[image.state];
  }

  #counts(image) {
    const proposed = image.scores.filter((score) => score >= this.#model.threshold).length;
    const parts = [];
    if (image.accepted) parts.push(`${image.accepted} ${image.accepted === 1 ? 'box' : 'boxes'}`);
    if (proposed) parts.push(`${proposed} proposed`);
    return parts.join(', ') || STATES[image.state];
  }

  #choose(id) {
    this.dispatchEvent(new CustomEvent('choose', { detail: id }));
  }

  #key(event) {
    const pages = Math.max(1, Math.floor(this.#scroller.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: pages, PageUp: -pages, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || event.ctrlKey || event.altKey || this.#shown.length === 0) return;
    event.preventDefault();
    event.stopPropagation();
    const start = this.#shown.findIndex((image) => image.id === this.#current);
    const index = Math.min(Math.max(start + step, 0), this.#shown.length - 1);
    this.#choose(this.#shown[index].id);
  }
}
