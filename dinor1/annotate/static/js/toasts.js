// Short messages in a corner of the page.

import { h, icon } from './dom.js';

const SHOWN_MS = { info: 5000, error: 10000 };

/**
 * Show a message; errors are shown longer. A message that is still shown is not repeated.
 * @param {string} text
 * @param {'info'|'error'} kind
 */
export function toast(text, kind = 'info') {
  const area = document.getElementById('toasts');
  for (const shown of area.children) if (shown.firstChild.textContent === text) shown.remove();
  const close = h('button', { type: 'button', class: 'bare', 'aria-label': 'Dismiss' }, icon('cross'));
  const element = h('div', { class: `toast ${kind}` }, h('span', { text }), close);
  const remove = () => element.remove();
  close.addEventListener('click', remove);
  setTimeout(remove, SHOWN_MS[kind]);
  area.append(element);
  while (area.children.length > 4) area.firstChild.remove();
}

export const showError = (error) => toast(error.message, 'error');
