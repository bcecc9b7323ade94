// The list of the boxes of the image, which also shows rejected boxes.

import { h, icon, setStyle } from './dom.js';
import { isVisible } from './model.js';

const MAX_ROWS = 300;

/** Proposals come first, in descending order of score. */
function byUrgency(a, b) {
  if (a.status === b.status) return (b.score ?? 2) - (a.score ?? 2);
  return a.status === 'proposed' ? -1 : 1;
}

/** Events: `select`, `accept`, `reject`, `restore` (detail: id). */
export class BoxesPanel extends EventTarget {
  #root;
  #model;
  #document = null;
  #selected = null;

  constructor(root, model) {
    super();
    this.#root = root;
    this.#model = model;
    model.addEventListener('common', () => this.render());
    model.addEventListener('threshold', () => this.render());
  }

  show(document, selected) {
    this.#document = document;
    this.#selected = selected;
    this.render();
  }

  render() {
    const boxes = this.#document?.boxes ?? [];
    const visible = boxes.filter((box) => isVisible(box, this.#model.threshold));
    visible.sort(byUrgency);
    const rejected = boxes.filter((box) => box.status === 'rejected');
    const rows = [...visible, ...rejected].slice(0, MAX_ROWS).map((box) => this.#row(box));
    const content = [];
    if (rows.length > 0) content.push(h('ul', { class: 'boxes' }, ...rows));
    else if (this.#document) {
      content.push(h('p', { class: 'empty', text: 'No boxes yet. Drag on the image to draw one.' }));
    }
    const hidden = visible.length + rejected.length - rows.length;
    if (hidden > 0) content.push(h('p', { class: 'muted', text: `and ${hidden} more` }));
    const scroll = this.#root.scrollTop;
    this.#root.replaceChildren(...content);
    this.#root.scrollTop = scroll;
    this.#root.querySelector('[aria-current="true"]')?.scrollIntoView({ block: 'nearest' });
  }

  #row(box) {
    const info = this.#model.classOf(box.class_id);
    const isProposed = box.status === 'proposed';
    const sizes = `${Math.round(box.bbox[2] - box.bbox[0])} × ${Math.round(box.bbox[3] - box.bbox[1])}`;
    const choose = h(
      'button',
      { type: 'button', class: 'box-name', on: { click: () => this.#emit('select', box.id) } },
      h('span', { class: 'swatch' }),
      h('span', { class: 'name', text: info?.name ?? '?' }),
      h('span', { class: 'muted', text: isProposed && box.score !== null ? box.score.toFixed(2) : sizes }),
    );
    const buttons = [];
    if (box.status === 'rejected') buttons.push(this.#button('undo', 'Restore the rejected proposal', 'restore', box));
    if (isProposed) {
      buttons.push(this.#button('check', 'Accept', 'accept', box), this.#button('cross', 'Reject', 'reject', box));
    }
    if (box.status === 'accepted') buttons.push(this.#button('trash', 'Delete', 'reject', box));
    const current = box.id === this.#selected ? 'true' : null;
    const row = h('li', { class: `box-row ${box.status}`, 'aria-current': current }, choose, ...buttons);
    return setStyle(row, '--color', info?.color ?? '#888888');
  }

  #button(name, label, type, box) {
    const properties = { type: 'button', class: 'bare', 'aria-label': label, title: label };
    return h('button', { ...properties, on: { click: () => this.#emit(type, box.id) } }, icon(name));
  }

  #emit(type, id) {
    this.dispatchEvent(new CustomEvent(type, { detail: id }));
  }
}
