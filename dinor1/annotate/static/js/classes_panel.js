// The list of classes: choose, add, rename, colour and remove classes.

import { api } from './api.js';
import { ask } from './dialogs.js';
import { h, icon, setStyle } from './dom.js';
import { showError } from './toasts.js';

/** Events: `choose` (detail: id). */
export class ClassesPanel extends EventTarget {
  #root;
  #model;
  #current = null;
  #input;

  constructor(root, model) {
    super();
    this.#root = root;
    this.#model = model;
    this.#input = h('input', {
      type: 'text',
      placeholder: 'New class',
      'aria-label': 'Name of a new class',
      maxlength: 100,
      autocomplete: 'off',
    });
    this.#list = h('ul', { class: 'classes' });
    const form = h(
      'form',
      { class: 'inline-form', on: { submit: (event) => this.#add(event) } },
      this.#input,
      h('button', { class: 'square', 'aria-label': 'Add class' }, icon('plus')),
    );
    root.append(this.#list, form);
    model.addEventListener('common', () => this.render());
  }

  #list;

  focusInput() {
    this.#input.focus();
  }

  setCurrent(id) {
    this.#current = id;
    this.render();
  }

  render() {
    // The text field keeps the focus, because only the list is rebuilt.
    const focused = this.#root.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.#list.replaceChildren(...this.#model.common.classes.map((info, i) => this.#item(info, i)));
    if (focused) this.#list.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  #item(info, i) {
    const shortcut = i < 9 ? String(i + 1) : '';
    const color = h('input', {
      type: 'color',
      value: info.color,
      'aria-label': `Colour of ${info.name}`,
      data: { key: `color-${info.id}` },
      on: { change: (event) => this.#change(info.id, { color: event.target.value }) },
    });
    const choose = h(
      'button',
      {
        type: 'button',
        class: 'class-name',
        'aria-pressed': String(info.id === this.#current),
        title: shortcut ? `Key ${shortcut}` : null,
        data: { key: `choose-${info.id}` },
        on: { click: () => this.dispatchEvent(new CustomEvent('choose', { detail: info.id })) },
      },
      h('span', { class: 'name', text: info.name }),
      shortcut ? h('kbd', { text: shortcut }) : null,
    );
    const byName = this.#model.session?.has_text
      ? this.#button(info, 'text', info.by_name ? 'Do not search by name' : 'Search by name too', () =>
          this.#change(info.id, { by_name: !info.by_name }),
        )
      : null;
    byName?.setAttribute('aria-pressed', String(info.by_name));
    const rename = this.#button(info, 'pencil', `Rename ${info.name}`, () => this.#rename(info));
    const remove = this.#button(info, 'trash', `Remove ${info.name}`, () => this.#attempt(api.removeClass(info.id)));
    return setStyle(h('li', { class: 'class-row' }, color, choose, byName, rename, remove), '--color', info.color);
  }

  #button(info, name, label, action) {
    const properties = { type: 'button', class: 'bare', 'aria-label': label, title: label };
    return h('button', { ...properties, data: { key: `${name}-${info.id}` }, on: { click: action } }, icon(name));
  }

  async #add(event) {
    event.preventDefault();
    const name = this.#input.value.trim();
    if (!name) return;
    // Leave the text field immediately, so that the next keys are commands.
    this.#input.value = '';
    this.#input.blur();
    const info = await this.#attempt(api.addClass(name));
    if (!info) {
      this.#input.value = name;
      return;
    }
    this.dispatchEvent(new CustomEvent('choose', { detail: info.id }));
  }

  async #rename(info) {
    const name = await ask('Rename class', 'Name', info.name);
    if (name && name !== info.name) await this.#change(info.id, { name });
  }

  #change(id, changes) {
    return this.#attempt(api.changeClass(id, changes));
  }

  /** Wait for a request, and show its effect or its error; returns the response, or null after an error. */
  async #attempt(request) {
    try {
      const answer = await request;
      await this.#model.poll();
      return answer;
    } catch (error) {
      showError(error);
      return null;
    }
  }
}
