// Requests to the server of this page.

/** The server rejected a request; `body` is its response. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error ?? `the server responded with status ${status}`);
    this.status = status;
    this.body = body;
  }
}

/** The server did not respond. */
export class OfflineError extends Error {
  constructor() {
    super('The server does not respond.');
  }
}

let token = '';

async function send(method, path, body, isFile) {
  const headers = { 'x-dinor1-token': token };
  let content;
  if (method !== 'GET') {
    // Every write states its length, so that it always has a body.
    content = isFile ? body : JSON.stringify(body ?? {});
    headers['content-type'] = isFile ? 'application/octet-stream' : 'application/json';
  }
  // A write is sent even if the tab is being closed. Browsers allow this for up to 64 KiB.
  const keepalive = typeof content === 'string' && content.length < 60_000;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: content, keepalive });
  } catch {
    throw new OfflineError();
  }
  const parsed = await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, parsed);
  return parsed;
}

async function request(method, path, body, isFile = false) {
  try {
    return await send(method, path, body, isFile);
  } catch (error) {
    // After the server was restarted and its new address was opened, this tab needs the new token.
    if (method === 'GET' || error.status !== 403) throw error;
    await openSession();
    return send(method, path, body, isFile);
  }
}

/** Start a session; returns the values that do not change while the server runs. */
export async function openSession() {
  const session = await send('GET', '/api/session');
  token = session.token;
  return session;
}

export const api = {
  state: (since) => request('GET', `/api/state?since=${since}`),
  save: () => request('POST', '/api/save'),
  settings: (changes) => request('PATCH', '/api/settings', changes),
  image: (id) => request('GET', `/api/images/${id}`),
  putImage: (id, content) => request('PUT', `/api/images/${id}`, content),
  addClass: (name) => request('POST', '/api/classes', { name }),
  changeClass: (id, changes) => request('PATCH', `/api/classes/${id}`, changes),
  removeClass: (id) => request('DELETE', `/api/classes/${id}`),
  addExemplar: (exemplar) => request('POST', '/api/exemplars', exemplar),
  changeExemplar: (id, negative) => request('PATCH', `/api/exemplars/${id}`, { negative }),
  removeExemplar: (id) => request('DELETE', `/api/exemplars/${id}`),
  find: (images) => request('POST', '/api/find', { images }),
  adapt: () => request('POST', '/api/adapt'),
  removeAdaptation: () => request('DELETE', '/api/adaptation'),
  cancel: (job) => request('POST', `/api/jobs/${job}/cancel`),
  forgetRun: () => request('DELETE', '/api/run'),
  importFile: (file) => request('POST', `/api/import?name=${encodeURIComponent(file.name)}`, file, true),
  addBank: (file) => request('POST', `/api/bank?name=${encodeURIComponent(file.name)}`, file, true),
  removeBank: () => request('DELETE', '/api/bank'),
  exportAll: (format, images) => request('POST', '/api/export', { format, images }),
};

/** Address of an image; it changes when the file changes. */
export const fileAddress = (image) => `/api/images/${image.id}/file?v=${image.version}`;
export const thumbnailAddress = (image) => `/api/images/${image.id}/thumbnail?v=${image.version}`;
export const cropAddress = (exemplar) => `/api/exemplars/${exemplar.id}/crop`;
