// Dialogs: keyboard shortcuts, import, export, and questions.

import { api } from './api.js';
import { h } from './dom.js';
import { showError } from './toasts.js';

/** Show a modal dialog; returns a promise of the value of the button that closes it ('' for Escape). */
function show(title, content, buttons) {
  const titleId = 'dialog-title';
  const form = h('form', { method: 'dialog' }, h('h2', { id: titleId, text: title }), ...content);
  form.append(
    h(
      'div',
      { class: 'dialog-buttons' },
      ...buttons.map(({ label, value, kind = '' }) => h('button', { value, class: kind, text: label })),
    ),
  );
  const dialog = h('dialog', { 'aria-labelledby': titleId }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
    dialog.addEventListener('click', (event) => {
      if (event.target === dialog) dialog.close('');
    });
  });
}

export const isDialogOpen = () => document.querySelector('dialog[open]') !== null;

/** Ask a yes-no question. */
export async function confirm(title, text, action) {
  const buttons = [
    { label: 'Cancel', value: '' },
    { label: action, value: 'yes', kind: 'primary' },
  ];
  return (await show(title, [h('p', { text })], buttons)) === 'yes';
}

/** Ask for a line of text; returns null if the text is empty or the dialog is cancelled. */
export async function ask(title, label, value = '') {
  const input = h('input', { type: 'text', value, maxlength: 100, autocomplete: 'off' });
  const buttons = [
    { label: 'Cancel', value: '' },
    { label: 'OK', value: 'ok', kind: 'primary' },
  ];
  const answer = show(title, [h('label', { class: 'field' }, h('span', { text: label }), input)], buttons);
  input.focus();
  input.select();
  // In a text field, Enter presses the first button of the form, which is Cancel here.
  input.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    input.closest('dialog').close('ok');
  });
  return (await answer) === 'ok' ? input.value.trim() || null : null;
}

/** Show all commands with their keys. */
export function showHelp(commands) {
  const groups = Map.groupBy
    ? Map.groupBy(commands, (command) => command.group)
    : commands.reduce((map, c) => map.set(c.group, [...(map.get(c.group) ?? []), c]), new Map());
  const sections = [...groups].map(([group, members]) =>
    h(
      'section',
      {},
      h('h3', { text: group }),
      h(
        'dl',
        {},
        ...members.flatMap(({ keys, title }) => [
          h('dt', {}, ...keys.split(' ').map((key) => h('kbd', { text: key.replaceAll('_', ' ') }))),
          h('dd', { text: title }),
        ]),
      ),
    ),
  );
  return show('Keyboard and mouse', [h('div', { class: 'help' }, ...sections)], [{ label: 'Close', value: '' }]);
}

/** Choose an annotation file and import it; returns a message, or null. */
export async function showImport() {
  const file = h('input', { type: 'file', accept: '.json,.jsonl' });
  const text =
    'The boxes of a COCO or ODVG file are added to the images of the same name. Boxes with a score below 1, as ' +
    'dinor1 detect writes them, become proposals. Boxes that exist already are not added again.';
  const answer = await show(
    'Import annotations',
    [h('p', { text }), h('label', { class: 'field' }, h('span', { text: 'File' }), file)],
    [
      { label: 'Cancel', value: '' },
      { label: 'Import', value: 'ok', kind: 'primary' },
    ],
  );
  if (answer !== 'ok' || file.files.length === 0) return null;
  try {
    return (await api.importFile(file.files[0])).message;
  } catch (error) {
    showError(error);
    return null;
  }
}

function choice(name, legend, options) {
  const labels = options.map(([value, text], i) =>
    h('label', {}, h('input', { type: 'radio', name, value, checked: i === 0 }), h('span', { text })),
  );
  return h('fieldset', { class: 'choice' }, h('legend', { text: legend }), ...labels);
}

/** Choose a format, export the annotations, and show the path of the files. */
export async function showExport() {
  const format = choice('format', 'Format', [
    ['coco', 'COCO (annotations.json)'],
    ['yolo', 'YOLO (labels, images and data.yaml)'],
    ['odvg', 'ODVG (annotations.jsonl)'],
  ]);
  const images = choice('images', 'Images', [
    ['checked', 'Checked images'],
    ['all', 'All images that are checked or have boxes'],
  ]);
  const note = h('p', { class: 'muted', text: 'Proposals that are not accepted are not exported.' });
  const answer = await show(
    'Export annotations',
    [format, images, note],
    [
      { label: 'Cancel', value: '' },
      { label: 'Export', value: 'ok', kind: 'primary' },
    ],
  );
  if (answer !== 'ok') return;
  const chosen = (fieldset) => fieldset.querySelector('input:checked').value;
  try {
    await showExported(await api.exportAll(chosen(format), chosen(images)));
  } catch (error) {
    showError(error);
  }
}

async function showExported(done) {
  const path = done.paths[0];
  const field = h('input', { type: 'text', readonly: true, value: path, class: 'path' });
  const content = [
    h('p', { text: `${done.num_boxes} boxes on ${done.num_images} images were written to this machine:` }),
    h('label', { class: 'field' }, h('span', { text: 'File' }), field),
  ];
  if (done.num_proposals) {
    const text = `${done.num_proposals} proposals on these images were not exported.`;
    content.push(h('p', { class: 'muted', text }));
  }
  if (done.unreadable.length) {
    content.push(h('p', { class: 'warning', text: `Left out: ${done.unreadable.join('; ')}` }));
  }
  const buttons = [
    { label: 'Copy path', value: 'copy' },
    { label: 'Close', value: '', kind: 'primary' },
  ];
  const answer = show('Exported', content, buttons);
  field.focus();
  field.select();
  if ((await answer) === 'copy') await navigator.clipboard?.writeText(path).catch(() => {});
}
