// Build the page: connect model, canvas, panels, buttons and keys.

import { App } from './app.js';
import { BoxesPanel } from './boxes_panel.js';
import { ImageCanvas } from './canvas.js';
import { ClassesPanel } from './classes_panel.js';
import { makeCommands } from './commands.js';
import { h, icon } from './dom.js';
import { ExemplarsPanel } from './exemplars_panel.js';
import { ImageList } from './image_list.js';
import { listenToKeys } from './keyboard.js';
import { Model } from './model.js';
import { showError } from './toasts.js';

const byId = (id) => document.getElementById(id);
const model = new Model();
const canvas = new ImageCanvas(byId('canvas'), model);
const list = new ImageList(byId('list'), model);
const app = new App(model, canvas, list);
const commands = makeCommands(app);

// ---------------------------------------------------------------- panels

const classes = new ClassesPanel(byId('classes'), model);
classes.addEventListener('choose', (event) => app.chooseClass(event.detail));
app.addEventListener('class', () => classes.setCurrent(app.classId));

const exemplars = new ExemplarsPanel(byId('exemplars'), model, { adapt: () => app.adapt() });
exemplars.addEventListener('open', (event) => app.open(event.detail.image));

const boxes = new BoxesPanel(byId('boxes'), model);
boxes.addEventListener('select', (event) => app.selectBox(event.detail));
boxes.addEventListener('accept', (event) => app.accept(event.detail));
boxes.addEventListener('reject', (event) => app.reject(event.detail));
boxes.addEventListener('restore', (event) => app.restore(event.detail));
const showBoxes = () => boxes.show(app.document, app.selected);
app.addEventListener('document', showBoxes);
app.addEventListener('selection', showBoxes);

// ---------------------------------------------------------------- buttons and keys

for (const button of document.querySelectorAll('[data-command]')) {
  const command = commands.find(({ id }) => id === button.dataset.command);
  if (button.dataset.icon) button.prepend(icon(button.dataset.icon));
  const [key] = command.keys.split(' ');
  button.title = `${command.title} (${key})`;
  button.addEventListener('click', (event) => command.run(event, commands));
}
listenToKeys(commands, canvas);

// ---------------------------------------------------------------- image, zoom and threshold

function showDocument() {
  const { document: shown } = app;
  byId('image-name').textContent = shown ? shown.name : '';
  byId('canvas-message').hidden = !app.message;
  byId('canvas-message').textContent = app.message;
  const checkButton = byId('check-button');
  checkButton.lastChild.textContent = shown?.checked ? 'Reopen' : 'Checked, next';
  for (const [id, isPossible] of Object.entries({ undo: shown?.canUndo, redo: shown?.canRedo })) {
    document.querySelector(`[data-command=${id}]`).setAttribute('aria-disabled', String(!isPossible));
  }
  showProposals();
}

function showProposals() {
  const proposed = (app.document?.boxes ?? []).filter((box) => box.status === 'proposed').length;
  const visible = app.visibleProposals.length;
  const text = proposed ? `${visible} of ${proposed} proposals` : '';
  byId('proposal-count').textContent = text;
  for (const id of ['accept-all', 'reject-all']) {
    document.querySelector(`[data-command=${id}]`).disabled = visible === 0;
  }
}

function showThreshold() {
  byId('threshold').value = model.threshold;
  byId('threshold-value').textContent = model.threshold.toFixed(2);
  showProposals();
}

app.addEventListener('document', showDocument);
canvas.addEventListener('zoom', () => {
  byId('zoom').textContent = `${Math.round(canvas.viewport.scale * 100)} %`;
});
byId('threshold').addEventListener('input', (event) => model.setThreshold(Number(event.target.value)));
model.addEventListener('threshold', showThreshold);
model.addEventListener('common', showThreshold);

// ---------------------------------------------------------------- list and its filters

const FILTERS = { '': 'All', new: 'New', proposed: 'To check', checked: 'Checked' };
let state = '';

function showFilters() {
  const count = (key) => model.images.filter((image) => !key || image.state === key).length;
  const buttons = Object.entries(FILTERS).map(([key, text]) =>
    h(
      'button',
      { type: 'button', 'aria-pressed': String(key === state), title: text, on: { click: () => chooseFilter(key) } },
      h('span', { text }),
      h('small', { text: String(count(key)) }),
    ),
  );
  const group = byId('state-filter');
  const focused = [...group.children].indexOf(document.activeElement);
  group.replaceChildren(...buttons);
  group.children[focused]?.focus();
  byId('progress').textContent = `${count('checked')} of ${model.images.length} checked`;
}

function chooseFilter(key) {
  state = key;
  list.setFilter(byId('search').value, state);
  showFilters();
}

byId('search').addEventListener('input', (event) => list.setFilter(event.target.value, state));
model.addEventListener('images', showFilters);

// ---------------------------------------------------------------- jobs

const JOB_NAMES = { find: 'Finding', adapt: 'Adapting to the checked images' };

function showJob() {
  const job = model.activeJob;
  const element = byId('job');
  element.hidden = !job;
  if (!job) return;
  const part = job.total > 1 ? ` ${job.done} of ${job.total} images, ${job.found} proposals` : '…';
  const bar = h('progress', job.total > 1 ? { max: job.total, value: job.done } : {});
  const on = { click: () => app.cancel() };
  const cancel = h('button', { type: 'button', text: 'Cancel', title: 'Shift+Escape', on });
  // Keep the button element while it has the focus or is being pressed.
  if (element.children.length === 3 && element.lastChild.matches('button') === job.can_cancel) {
    element.firstChild.textContent = JOB_NAMES[job.kind] + part;
    element.children[1].replaceWith(bar);
    return;
  }
  const end = job.can_cancel ? cancel : h('span');
  element.replaceChildren(h('span', { text: JOB_NAMES[job.kind] + part }), bar, end);
}

model.addEventListener('jobs', () => {
  showJob();
  showBanners();
});

// ---------------------------------------------------------------- connection and saving

function banner(kind, text, ...buttons) {
  const role = kind === 'error' ? 'alert' : null;
  return h('div', { class: `banner ${kind}`, role }, h('span', { text }), ...buttons);
}

const bannerButton = (text, action) => h('button', { type: 'button', text, on: { click: action } });

function showBanners() {
  const shown = [];
  const { run } = model.common;
  if (!model.isOnline && model.refusal === 'session') {
    const text = 'The server was restarted. Open the address that it printed, then return to this tab.';
    shown.push(banner('error', text));
  } else if (!model.isOnline) {
    const waiting = app.hasUnsaved ? ' Your changes are kept in this tab and saved when it responds.' : '';
    shown.push(banner('error', `The server does not respond.${waiting}`));
  }
  if (model.problem) {
    const advice = 'All changes are kept while the server runs: free disk space, then save again.';
    const text = `Not saved on the disk (${model.problem}). ${advice}`;
    shown.push(banner('error', text, bannerButton('Save again', () => app.saveAgain())));
  }
  if (run && !model.activeJob) {
    const text = `A search of ${run.total} images was interrupted.`;
    const goOn = bannerButton('Continue', () => app.findOnAll());
    const dismiss = bannerButton('Dismiss', () => app.forgetRun());
    shown.push(banner('info', text, goOn, dismiss));
  }
  const key = shown.map((element) => element.textContent).join('|');
  const area = byId('banners');
  if (area.dataset.key === key) return;
  area.dataset.key = key;
  area.replaceChildren(...shown);
}

function showSaveState() {
  const element = byId('save-state');
  const isFailing = app.isOffline || model.problem;
  element.className = `save-state ${isFailing ? 'failing' : ''}`;
  element.textContent = isFailing ? 'Not saved' : app.hasUnsaved ? 'Saving…' : 'Saved';
}

app.addEventListener('status', () => {
  showSaveState();
  showBanners();
});
model.addEventListener('connection', () => {
  showSaveState();
  showBanners();
});
model.addEventListener('common', showBanners);
window.addEventListener('beforeunload', (event) => {
  if (app.hasUnsaved) event.preventDefault();
});

// ---------------------------------------------------------------- start

try {
  await model.start();
  const { folder } = model.session;
  byId('folder').textContent = folder.split(/[\\/]/).pop();
  byId('folder').title = `${folder}\nState: ${model.session.work_dir}`;
  document.title = `${folder.split(/[\\/]/).pop()} - dinor1 annotate`;
  showSaveState();
  const first = model.images.find((image) => image.state !== 'checked') ?? model.images[0];
  if (first) await app.open(first.id);
} catch (error) {
  showError(error);
}
