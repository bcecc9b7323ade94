// The exemplars of the search, the prompt bank, and the adaptation.

import { api, cropAddress } from './api.js';
import { h, icon, setStyle } from './dom.js';
import { showError } from './toasts.js';

/** Events: `open` (detail: exemplar). */
export class ExemplarsPanel extends EventTarget {
  #model;
  #strip = h('ul', { class: 'exemplars' });
  #notes = h('div', { class: 'notes' });
  #tiles = new Map(); // id -> [tile, key]
  #file;

  constructor(root, model, { adapt }) {
    super();
    this.#model = model;
    this.#file = h('input', { type: 'file', accept: '.safetensors', hidden: true, 'aria-label': 'Prompt bank' });
    this.#file.addEventListener('change', () => this.#addBank());
    const bankTitle = 'Add the classes of a prompt bank (.safetensors) made by dinor1 bank';
    const adaptTitle = 'Tune the exemplars on the checked images; the result is kept only if it is better';
    const buttons = h(
      'div',
      { class: 'button-row' },
      h('button', { type: 'button', title: bankTitle, text: 'Bank…', on: { click: () => this.#file.click() } }),
      h('button', { type: 'button', title: adaptTitle, text: 'Adapt', on: { click: adapt } }),
    );
    root.append(this.#strip, this.#notes, buttons, this.#file);
    model.addEventListener('common', () => this.render());
  }

  render() {
    const { exemplars, bank, adaptation } = this.#model.common;
    // Keep tiles that do not change, so that their images do not flicker.
    const tiles = new Map();
    for (const exemplar of exemplars) {
      const info = this.#model.classOf(exemplar.class_id);
      const isAdapted = adaptation?.exemplars.includes(exemplar.id) ?? false;
      const key = JSON.stringify([exemplar, info, isAdapted]);
      const known = this.#tiles.get(exemplar.id);
      tiles.set(exemplar.id, known?.[1] === key ? known : [this.#tile(exemplar, info, isAdapted), key]);
    }
    this.#tiles = tiles;
    this.#strip.replaceChildren(...[...tiles.values()].map(([tile]) => tile));
    this.#strip.hidden = exemplars.length === 0;
    // Show the prompt bank and the adaptation.
    const notes = [];
    if (exemplars.length === 0 && !bank) {
      const text = ['Draw a box around one object, then press ', h('kbd', { text: 'F' }), ' to find similar objects.'];
      notes.push(h('p', { class: 'empty' }, ...text));
    }
    if (bank) {
      const text = `Bank ${bank.name}: ${bank.classes.length} ${bank.classes.length === 1 ? 'class' : 'classes'}`;
      notes.push(this.#note(text, 'Remove the bank', api.removeBank));
    }
    if (adaptation) {
      const text = 'Adapted to checked images';
      notes.push(this.#note(text, 'Undo the adaptation', api.removeAdaptation, adaptation.figures));
    }
    this.#notes.replaceChildren(...notes);
  }

  #tile(exemplar, info, isAdapted) {
    const what = `${exemplar.negative ? 'Not ' : ''}${info?.name ?? '?'}, from ${exemplar.image_name}`;
    const open = () => this.dispatchEvent(new CustomEvent('open', { detail: exemplar }));
    const sign = exemplar.negative ? 'Make it positive' : 'Make it negative: it must not be mistaken for the class';
    const invert = () => api.changeExemplar(exemplar.id, !exemplar.negative);
    const tile = h(
      'li',
      { class: `exemplar${exemplar.negative ? ' negative' : ''}${isAdapted ? ' adapted' : ''}` },
      h(
        'button',
        { type: 'button', class: 'crop', title: what, 'aria-label': `Exemplar: ${what}`, on: { click: open } },
        h('img', { src: cropAddress(exemplar), alt: '', draggable: 'false' }),
      ),
      h('span', { class: 'caption', text: `${exemplar.negative ? 'not ' : ''}${info?.name ?? '?'}` }),
      this.#tileButton(exemplar.negative ? 'plus' : 'block', sign, invert),
      this.#tileButton('cross', 'Remove the exemplar', () => api.removeExemplar(exemplar.id)),
    );
    return setStyle(tile, '--color', info?.color ?? '#888888');
  }

  #tileButton(name, label, action) {
    const properties = { type: 'button', class: `bare tile-${name}`, 'aria-label': label, title: label };
    return h('button', { ...properties, on: { click: () => this.#attempt(action) } }, icon(name));
  }

  #note(text, label, action, details = null) {
    const button = h(
      'button',
      { type: 'button', class: 'bare', 'aria-label': label, title: label, on: { click: () => this.#attempt(action) } },
      icon('cross'),
    );
    return h('div', { class: 'note', title: details }, h('span', { text }), button);
  }

  async #addBank() {
    const [file] = this.#file.files;
    this.#file.value = '';
    if (file) await this.#attempt(() => api.addBank(file));
  }

  async #attempt(action) {
    try {
      await action();
      await this.#model.poll();
    } catch (error) {
      showError(error);
    }
  }
}
