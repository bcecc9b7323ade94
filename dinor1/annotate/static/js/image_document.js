// An image that is being edited: its boxes, undo and redo; every change is saved immediately.

import { api, ApiError, OfflineError } from './api.js';
import { apply, diff, invert, isEmpty } from './patch.js';

const RETRY_MS = 2000;
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Events: `change` (boxes or state), `status` (saving, offline), `conflict` (detail: number of boxes that keep the
 * changes of another tab), `refused` (detail: message).
 */
export class ImageDocument extends EventTarget {
  #saved; // the last record that the server confirmed
  #undo = [];
  #redo = [];
  #isSaving = false;

  constructor(record) {
    super();
    this.isOffline = false;
    this.#adopt(record);
  }

  get id() {
    return this.#saved.id;
  }

  get name() {
    return this.#saved.name;
  }

  get revision() {
    return this.#saved.revision;
  }

  get size() {
    return [this.#saved.width, this.#saved.height];
  }

  get version() {
    return this.#saved.version;
  }

  /** Whether there are changes that the server has not confirmed. */
  get isDirty() {
    return this.boxes !== this.#saved.boxes || this.checked !== this.#saved.checked;
  }

  get isSaving() {
    return this.#isSaving;
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  get canRedo() {
    return this.#redo.length > 0;
  }

  box(id) {
    return this.boxes.find((box) => box.id === id) ?? null;
  }

  /** Replace boxes and state in one step of the undo history. */
  change(boxes, checked = this.checked) {
    const patch = diff(this, { boxes, checked });
    if (isEmpty(patch)) return;
    this.#undo.push(patch);
    this.#redo = [];
    this.#set(boxes, checked);
  }

  /** Undo the last change; returns false if there is none. */
  undo() {
    return this.#move(this.#undo, this.#redo);
  }

  redo() {
    return this.#move(this.#redo, this.#undo);
  }

  /** Read the image again after a change by another tab or a search; unsaved changes are merged. */
  async refresh() {
    if (this.isDirty || this.#isSaving) return;
    const record = await api.image(this.id);
    if (this.isDirty || this.#isSaving || record.revision <= this.revision) return;
    this.#adopt(record);
    this.dispatchEvent(new Event('change'));
  }

  #move(from, to) {
    const patch = from.pop();
    if (!patch) return false;
    const back = invert(patch);
    to.push(back);
    const { boxes, checked, conflicts } = apply(this, back);
    if (conflicts) this.dispatchEvent(new CustomEvent('conflict', { detail: conflicts }));
    this.#set(boxes, checked);
    return true;
  }

  #adopt(record) {
    this.#saved = record;
    this.boxes = record.boxes;
    this.checked = record.checked;
  }

  #set(boxes, checked) {
    this.boxes = boxes;
    this.checked = checked;
    this.dispatchEvent(new Event('change'));
    this.#save();
  }

  /** Send changes until the server has all of them. */
  async #save() {
    if (this.#isSaving) return;
    this.#isSaving = true;
    while (this.isDirty) {
      this.dispatchEvent(new Event('status'));
      const sent = { boxes: this.boxes, checked: this.checked };
      try {
        const record = await api.putImage(this.id, { revision: this.revision, ...sent });
        this.isOffline = false;
        this.#confirm(record, sent);
      } catch (error) {
        if (error instanceof OfflineError || error.status === 403) await this.#retryLater();
        else if (error instanceof ApiError && error.status === 409) this.#merge(error.body);
        else this.#giveUp(error);
      }
    }
    this.#isSaving = false;
    this.dispatchEvent(new Event('status'));
  }

  #confirm(record, sent) {
    const isCurrent = this.boxes === sent.boxes && this.checked === sent.checked;
    if (isCurrent) this.#adopt(record);
    else this.#saved = record;
  }

  async #retryLater() {
    this.isOffline = true;
    this.dispatchEvent(new Event('status'));
    await wait(RETRY_MS);
  }

  /** Another tab or a search was faster: apply the changes again to the current record of the server. */
  #merge(theirs) {
    const mine = diff(this.#saved, this);
    const { boxes, checked, conflicts } = apply(theirs, mine);
    this.#adopt(theirs);
    if (!isEmpty(diff(theirs, { boxes, checked }))) {
      this.boxes = boxes;
      this.checked = checked;
    }
    this.dispatchEvent(new CustomEvent('conflict', { detail: conflicts }));
    this.dispatchEvent(new Event('change'));
  }

  /** The server rejects the change: return to the record of the server. */
  #giveUp(error) {
    this.#adopt(this.#saved);
    this.#undo.pop();
    this.dispatchEvent(new CustomEvent('refused', { detail: error.message }));
    this.dispatchEvent(new Event('change'));
  }
}
