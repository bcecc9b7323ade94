// The controller of the page: all actions of the user, by key, button or pointer.

import { api, fileAddress } from './api.js';
import { confirm, isDialogOpen, showExport, showHelp, showImport } from './dialogs.js';
import { handlePoint, move, resize, rounded } from './geometry.js';
import { ImageDocument } from './image_document.js';
import { isVisible } from './model.js';
import { showError, toast } from './toasts.js';

const KEPT_DOCUMENTS = 60;
const KEPT_BITMAPS = 6;
const newId = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
};

/** Events: `document` (another image, or a change of it), `selection`, `class`, `status`. */
export class App extends EventTarget {
  document = null;
  selected = null;
  classId = null;
  message = ''; // shown in place of the image
  #documents = new Map(); // id -> document in order of use; keeps the undo history and unsaved changes
  #bitmaps = new Map(); // address -> promise of an image
  #opening = null;
  #adding = null; // promise of the last exemplar

  constructor(model, canvas, list) {
    super();
    this.model = model;
    this.canvas = canvas;
    this.list = list;
    canvas.addEventListener('draw', (event) => this.#draw(event.detail));
    canvas.addEventListener('edit', (event) => this.#changeBox(event.detail.id, { bbox: event.detail.bbox }));
    canvas.addEventListener('select', (event) => this.selectBox(event.detail));
    list.addEventListener('choose', (event) => this.open(event.detail));
    model.addEventListener('images', () => this.#refresh());
    model.addEventListener('common', () => this.#checkClass());
    model.addEventListener('threshold', () => canvas.redraw());
    model.addEventListener('job-finished', (event) => this.#jobFinished(event.detail));
  }

  get box() {
    return this.selected && this.document ? this.document.box(this.selected) : null;
  }

  get visibleProposals() {
    const boxes = this.document?.boxes ?? [];
    return boxes.filter((box) => box.status === 'proposed' && isVisible(box, this.model.threshold));
  }

  /** Whether a change of any image is not on the server yet. */
  get hasUnsaved() {
    return [...this.#documents.values()].some((document) => document.isDirty || document.isSaving);
  }

  get isOffline() {
    return [...this.#documents.values()].some((document) => document.isOffline);
  }

  // ---------------------------------------------------------------- images

  /** Show an image, and select one of its boxes. */
  async open(id, boxId = null) {
    if (this.#opening === id) return;
    this.#opening = id;
    this.list.setCurrent(id);
    const summary = this.model.image(id);
    try {
      const document = this.#documents.get(id) ?? this.#remember(new ImageDocument(await api.image(id)));
      const bitmap = await this.#bitmap(summary);
      if (this.#opening !== id) return; // the user has chosen another image
      this.#show(document, bitmap, '');
      this.selectBox(boxId);
      this.#refresh();
      this.#prefetch();
    } catch (error) {
      if (this.#opening === id) this.#show(null, null, error.message);
    } finally {
      if (this.#opening === id) this.#opening = null;
    }
  }

  next() {
    this.#openNeighbour(1);
  }

  previous() {
    this.#openNeighbour(-1);
  }

  nextUnchecked() {
    const image = this.list.neighbour(1, (candidate) => candidate.state !== 'checked');
    if (image) this.open(image.id);
    else toast('All following images are checked.');
  }

  #openNeighbour(step) {
    const image = this.list.neighbour(step);
    if (image) this.open(image.id);
  }

  #show(document, bitmap, message) {
    this.document = document;
    this.message = message;
    this.selected = null;
    this.canvas.show(document, bitmap);
    this.#announce('document');
  }

  /** Keep the documents of the last images, and all documents with unsaved changes. */
  #remember(document) {
    document.addEventListener('change', () => this.#documentChanged(document));
    document.addEventListener('status', () => this.#announce('status'));
    document.addEventListener('refused', (event) => toast(event.detail, 'error'));
    document.addEventListener('conflict', (event) => this.#tellConflict(document, event.detail));
    this.#documents.set(document.id, document);
    for (const [id, old] of this.#documents) {
      if (this.#documents.size <= KEPT_DOCUMENTS) break;
      if (!old.isDirty && !old.isSaving && old !== this.document && old !== document) this.#documents.delete(id);
    }
    return document;
  }

  #tellConflict(document, count) {
    const kept = count ? `; ${count} of your changes were discarded` : ', and your changes were merged';
    toast(`${document.name} was changed in another tab${kept}.`, count ? 'error' : 'info');
  }

  #bitmap(summary) {
    const address = fileAddress(summary);
    const known = this.#bitmaps.get(address);
    const image = known ?? this.#load(address, summary);
    this.#bitmaps.delete(address);
    this.#bitmaps.set(address, image);
    if (this.#bitmaps.size > KEPT_BITMAPS) this.#bitmaps.delete(this.#bitmaps.keys().next().value);
    return image;
  }

  async #load(address, summary) {
    const image = new Image();
    image.src = address;
    try {
      await image.decode();
    } catch {
      this.#bitmaps.delete(address);
      throw new Error(`${summary.name} cannot be shown; restore the file.`);
    }
    return image;
  }

  #prefetch() {
    const image = this.list.neighbour(1);
    if (image) this.#bitmap(image).catch(() => {}); // an error is reported when the image is opened
  }

  /** Read the image again if a search or another tab has changed it. */
  #refresh() {
    const document = this.document;
    const summary = document && this.model.image(document.id);
    if (summary && summary.revision > document.revision) document.refresh().catch(showError);
  }

  #documentChanged(document) {
    if (document !== this.document) return;
    if (this.selected && !this.box) this.selectBox(null);
    this.canvas.redraw();
    this.#announce('document');
  }

  #announce(type) {
    this.dispatchEvent(new Event(type));
  }

  // ---------------------------------------------------------------- boxes

  selectBox(id) {
    this.selected = id;
    this.canvas.select(id);
    if (this.box) this.canvas.reveal(this.box.bbox);
    this.#announce('selection');
  }

  /** Select the next or previous visible box, in reading order. */
  cycleBox(step) {
    const boxes = (this.document?.boxes ?? []).filter((box) => isVisible(box, this.model.threshold));
    if (boxes.length === 0) return;
    boxes.sort((a, b) => Math.round((a.bbox[1] - b.bbox[1]) / 40) || a.bbox[0] - b.bbox[0]);
    const index = boxes.findIndex((box) => box.id === this.selected);
    const next = index < 0 && step < 0 ? boxes.length - 1 : (index + step + boxes.length) % boxes.length;
    this.selectBox(boxes[next].id);
  }

  /** Add a box of the current class; if there is no class, a class named "object" is created. */
  async #draw(bbox) {
    const document = this.document;
    const id = newId();
    const class_id = this.classId ?? (await this.#makeClass());
    if (class_id === null || document !== this.document) return;
    document.change([...document.boxes, { id, bbox, class_id, status: 'accepted', score: null }]);
    this.selectBox(id);
  }

  async #makeClass() {
    try {
      const info = await api.addClass('object');
      await this.model.poll();
      this.chooseClass(info.id);
      toast('New class "object". Rename it in the panel on the right.');
      return info.id;
    } catch (error) {
      showError(error);
      return null;
    }
  }

  drawInTheMiddle() {
    if (this.document) this.#draw(this.canvas.centralBox());
  }

  #changeBox(id, changes) {
    const document = this.document;
    document.change(document.boxes.map((box) => (box.id === id ? { ...box, ...changes } : box)));
  }

  /** Move the selected box; without one, move the image. */
  nudge(dx, dy) {
    const box = this.box;
    if (box) this.#changeBox(box.id, { bbox: rounded(move(box.bbox, dx, dy, this.document.size)) });
    else this.canvas.pan(-40 * dx, -40 * dy);
  }

  /** Move the right or lower edge of the selected box. */
  stretch(dx, dy) {
    const box = this.box;
    if (!box) return;
    const [x, y] = handlePoint(box.bbox, 'se');
    this.#changeBox(box.id, { bbox: rounded(resize(box.bbox, 'se', [x + dx, y + dy], this.document.size)) });
  }

  /** Give the selected box a class, which also becomes the class of new boxes. */
  chooseClass(id) {
    this.classId = id;
    this.#announce('class');
    if (this.box && this.box.class_id !== id) this.#changeBox(this.box.id, { class_id: id });
  }

  chooseClassAt(index) {
    const info = this.model.common.classes[index];
    if (info) this.chooseClass(info.id);
  }

  #checkClass() {
    const { classes } = this.model.common;
    if (!classes.some((info) => info.id === this.classId)) this.classId = classes[0]?.id ?? null;
    this.canvas.redraw();
    this.#announce('class');
  }

  accept(id = this.selected) {
    this.#decide(id, 'accepted');
  }

  /** Reject a proposal; delete an annotation. */
  reject(id = this.selected) {
    const box = id && this.document?.box(id);
    if (!box) return;
    if (box.status === 'proposed') this.#decide(id, 'rejected');
    else {
      this.#selectAfter(id);
      this.document.change(this.document.boxes.filter((other) => other.id !== id));
    }
  }

  restore(id) {
    this.#changeBox(id, { status: 'proposed' });
  }

  #decide(id, status) {
    const box = id && this.document?.box(id);
    if (!box || box.status !== 'proposed') return;
    this.#selectAfter(id);
    this.#changeBox(id, { status });
  }

  /** Select the next proposal after the selected one was accepted or rejected. */
  #selectAfter(id) {
    if (id !== this.selected) return;
    const proposals = this.visibleProposals;
    const index = proposals.findIndex((box) => box.id === id);
    const next = index < 0 ? null : (proposals[index + 1] ?? proposals[index - 1]);
    this.selectBox(next?.id ?? null);
  }

  decideAll(status) {
    const chosen = new Set(this.visibleProposals.map((box) => box.id));
    if (chosen.size === 0) return;
    const document = this.document;
    document.change(document.boxes.map((box) => (chosen.has(box.id) ? { ...box, status } : box)));
    toast(`${chosen.size} ${chosen.size === 1 ? 'proposal' : 'proposals'} ${status}. Ctrl+Z undoes this.`);
  }

  undo() {
    if (this.document && !this.document.undo()) toast('Nothing to undo on this image.');
  }

  redo() {
    if (this.document && !this.document.redo()) toast('Nothing to redo on this image.');
  }

  /** Mark the image as finished and open the next one, or mark it as unfinished and stay. */
  check() {
    const document = this.document;
    if (!document) return;
    const isDone = !document.checked;
    document.change(document.boxes, isDone);
    if (!isDone) return;
    const open = this.visibleProposals.length;
    if (open > 0) toast(`${document.name} is checked. Its ${open} open proposals will not be exported.`);
    const next = this.list.neighbour(1, (image) => image.state !== 'checked') ?? this.list.neighbour(1);
    if (next) this.open(next.id);
    else toast('This was the last image.');
  }

  // ---------------------------------------------------------------- exemplars and searches

  /** Make the selected box an exemplar; returns a promise of whether this succeeded. */
  addExemplar(negative = false) {
    this.#adding = this.#addExemplar(negative);
    return this.#adding;
  }

  async #addExemplar(negative) {
    const box = this.box;
    if (!box) {
      toast('Select a box first: click it, or press the comma or full stop key.');
      return false;
    }
    try {
      await api.addExemplar({ image: this.document.id, bbox: box.bbox, class_id: box.class_id, negative });
      await this.model.poll();
      return true;
    } catch (error) {
      showError(error);
      return false;
    }
  }

  #isExemplar(box, image) {
    const isSame = (e) => e.image === image && e.bbox.every((value, i) => Math.abs(value - box.bbox[i]) < 0.5);
    return this.model.common.exemplars.some(isSame);
  }

  /** Search this image; a selected annotation becomes an exemplar first. */
  async find() {
    if (!this.document) return;
    const { id } = this.document;
    const box = this.box;
    await this.#adding; // the user may press F immediately after E
    if (box?.status === 'accepted' && !this.#isExemplar(box, id) && !(await this.addExemplar())) return;
    await this.#start(() => api.find([id]));
  }

  async findOnAll() {
    await this.#start(() => api.find(null));
  }

  async adapt() {
    await this.#start(() => api.adapt());
  }

  async cancel() {
    const job = this.model.activeJob;
    if (!job?.can_cancel) return;
    try {
      await api.cancel(job.id);
      await this.model.poll();
    } catch (error) {
      showError(error);
    }
  }

  async #start(request) {
    try {
      await this.model.follow(await request());
    } catch (error) {
      showError(error);
    }
  }

  async #jobFinished(job) {
    // The message has the number of proposals on this image.
    await this.document?.refresh().catch(showError);
    if (job.state === 'failed') toast(job.message, 'error');
    else if (job.kind === 'adapt') toast(`Adaptation ${job.message}`);
    else if (job.state === 'cancelled') toast(`Cancelled: ${job.message || 'not started'}`);
    else if (job.total > 1) toast(job.message, job.problems.length ? 'error' : 'info');
    else this.#tellFound(job);
    for (const problem of job.problems.slice(0, 3)) toast(problem, 'error');
  }

  #tellFound(job) {
    const shown = this.visibleProposals.length;
    if (job.found === 0) toast('Nothing found. Try another exemplar, or add one.');
    else if (shown === 0) toast(`${job.found} proposals, all below the threshold. Lower it with the [ key.`);
  }

  // ---------------------------------------------------------------- dialogs

  help(commands) {
    if (!isDialogOpen()) showHelp(commands);
  }

  async importFile() {
    const message = await showImport();
    if (!message) return;
    toast(message);
    await this.model.poll();
  }

  exportAll() {
    return showExport();
  }

  async forgetRun() {
    const text = 'The images that were not searched yet will not be changed.';
    if (!(await confirm('Discard the interrupted search?', text, 'Discard'))) return;
    await api.forgetRun().catch(showError);
    await this.model.poll();
  }

  async saveAgain() {
    await api.save().catch(showError);
    await this.model.poll();
  }
}
