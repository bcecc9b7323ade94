// Boxes [x1, y1, x2, y2] in pixels of the image.

export const MIN_SIDE = 2;

export const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);

export const contains = ([x1, y1, x2, y2], [x, y]) => x >= x1 && x <= x2 && y >= y1 && y <= y2;

/** The box between two corners, clipped to the image. */
export function between([ax, ay], [bx, by], size) {
  const [x1, x2] = [Math.min(ax, bx), Math.max(ax, bx)];
  const [y1, y2] = [Math.min(ay, by), Math.max(ay, by)];
  return clip([x1, y1, x2, y2], size);
}

export function clip([x1, y1, x2, y2], [width, height]) {
  const limit = (value, most) => Math.min(Math.max(value, 0), most);
  return [limit(x1, width), limit(y1, height), limit(x2, width), limit(y2, height)];
}

/** The moved box, which stays inside the image. */
export function move([x1, y1, x2, y2], dx, dy, [width, height]) {
  const shiftX = Math.min(Math.max(dx, -x1), width - x2);
  const shiftY = Math.min(Math.max(dy, -y1), height - y2);
  return [x1 + shiftX, y1 + shiftY, x2 + shiftX, y2 + shiftY];
}

/** Names of the eight handles, which state the edges that they move. */
export const HANDLES = ['nw', 'n', 'ne', 'e', 'se', 's', 'sw', 'w'];

/** Position of a handle on its box. */
export function handlePoint([x1, y1, x2, y2], handle) {
  const x = handle.includes('w') ? x1 : handle.includes('e') ? x2 : (x1 + x2) / 2;
  const y = handle.includes('n') ? y1 : handle.includes('s') ? y2 : (y1 + y2) / 2;
  return [x, y];
}

/** The box with the edges of a handle moved to a point; an edge does not pass the opposite edge. */
export function resize([x1, y1, x2, y2], handle, [x, y], size) {
  const box = [x1, y1, x2, y2];
  if (handle.includes('w')) box[0] = Math.min(x, x2 - MIN_SIDE);
  if (handle.includes('e')) box[2] = Math.max(x, x1 + MIN_SIDE);
  if (handle.includes('n')) box[1] = Math.min(y, y2 - MIN_SIDE);
  if (handle.includes('s')) box[3] = Math.max(y, y1 + MIN_SIDE);
  return clip(box, size);
}

export const isLargeEnough = ([x1, y1, x2, y2]) => x2 - x1 >= MIN_SIDE && y2 - y1 >= MIN_SIDE;

/** Round to two decimals, which exceeds the precision of the detector and of the user. */
export const rounded = (box) => box.map((value) => Math.round(value * 100) / 100);
