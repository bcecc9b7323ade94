// The page's copy of the project, which is updated by requests for changes.

import { api, openSession } from './api.js';

const BUSY_MS = 400;
const IDLE_MS = 3000;

/**
 * Events: `images` (list or summaries), `common` (classes, exemplars, settings), `jobs`, `job-finished` (detail: job),
 * `connection`, `threshold`.
 */
export class Model extends EventTarget {
  images = [];
  jobs = [];
  problem = '';
  isOnline = true;
  common = { classes: [], exemplars: [], settings: { threshold: 0.3 }, bank: null, adaptation: null, run: null };
  #byId = new Map();
  #sequence = 0;
  #timer = 0;
  #polling = null;
  #next = null; // the request after the pending one
  #threshold = null; // chosen in this tab and not confirmed yet
  #thresholdTimer = 0;
  #awaited = new Set();

  async start() {
    this.session = await openSession();
    await this.poll();
  }

  image(id) {
    return this.#byId.get(id);
  }

  classOf(id) {
    return this.common.classes.find((info) => info.id === id);
  }

  get threshold() {
    return this.#threshold ?? this.common.settings.threshold;
  }

  /** Filter proposals immediately, and save the threshold when it does not change any more. */
  setThreshold(value) {
    this.#threshold = Math.min(Math.max(value, 0), 1);
    this.dispatchEvent(new Event('threshold'));
    clearTimeout(this.#thresholdTimer);
    this.#thresholdTimer = setTimeout(async () => {
      const sent = this.#threshold;
      try {
        this.common.settings = await api.settings({ threshold: sent });
        if (this.#threshold === sent) this.#threshold = null;
      } catch {
        // The threshold stays in this tab, and is saved with its next change.
      }
    }, 400);
  }

  get activeJob() {
    return this.jobs.find((job) => job.state === 'queued' || job.state === 'running') ?? null;
  }

  /** Request changes soon, and report the job when it is finished. */
  follow(job) {
    this.#awaited.add(job.id);
    this.jobs = [...this.jobs, job];
    this.dispatchEvent(new Event('jobs'));
    return this.poll();
  }

  /** Request changes now, and again later; the response has all changes before the call. */
  poll() {
    // The response to a pending request may lack the change that the caller waits for.
    if (this.#polling) return (this.#next ??= this.#polling.then(() => this.poll()));
    this.#next = null;
    this.#polling = this.#ask().finally(() => {
      this.#polling = null;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.poll(), this.activeJob || !this.isOnline ? BUSY_MS : IDLE_MS);
    });
    return this.#polling;
  }

  async #ask() {
    let answer;
    try {
      answer = await api.state(this.#sequence);
    } catch (error) {
      this.#setOnline(false, error);
      return;
    }
    this.#setOnline(true, null, answer.problem);
    // A server that was restarted counts from the beginning.
    if (answer.sequence < this.#sequence) {
      this.#sequence = 0;
      this.images = [];
      this.#byId.clear();
      await this.#ask();
      return;
    }
    this.#sequence = answer.sequence;
    this.#takeImages(answer.images);
    if (answer.common) {
      this.common = answer.common;
      this.dispatchEvent(new Event('common'));
    }
    this.#takeJobs(answer.jobs);
  }

  #takeImages(summaries) {
    for (const summary of summaries) {
      const known = this.#byId.get(summary.id);
      if (known) Object.assign(known, summary);
      else {
        this.#byId.set(summary.id, summary);
        this.images.push(summary);
      }
    }
    if (summaries.length > 0) this.dispatchEvent(new Event('images'));
  }

  #takeJobs(jobs) {
    this.jobs = jobs;
    this.dispatchEvent(new Event('jobs'));
    for (const job of jobs) {
      const isFinished = job.state !== 'queued' && job.state !== 'running';
      if (isFinished && this.#awaited.delete(job.id)) {
        this.dispatchEvent(new CustomEvent('job-finished', { detail: job }));
      }
    }
  }

  #setOnline(isOnline, error, problem = this.problem) {
    const message = error?.status === 403 ? 'session' : '';
    if (isOnline === this.isOnline && problem === this.problem && message === this.refusal) return;
    this.isOnline = isOnline;
    this.problem = problem;
    this.refusal = message;
    this.dispatchEvent(new Event('connection'));
  }
}

/** Whether a box is visible, and affected by "accept all" and "reject all". */
export const isVisible = (box, threshold) =>
  box.status === 'accepted' || (box.status === 'proposed' && (box.score ?? 1) >= threshold);
