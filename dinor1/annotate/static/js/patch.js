// Changes of the boxes of an image. Undo, redo and the merge with changes of another tab are the same operation.

/** Whether two boxes are equal, or both absent. */
export function sameBox(a, b) {
  if (!a || !b) return !a && !b;
  return (
    a.id === b.id &&
    a.class_id === b.class_id &&
    a.status === b.status &&
    a.score === b.score &&
    a.bbox.every((value, i) => value === b.bbox[i])
  );
}

/**
 * The difference between two states `{boxes, checked}` of an image.
 * @returns {{boxes: {id, before, after}[], checked: boolean[] | null}} `before` or `after` is null for a box that was
 *   added or removed; `checked` has the values before and after if they differ.
 */
export function diff(before, after) {
  const old = new Map(before.boxes.map((box) => [box.id, box]));
  const now = new Map(after.boxes.map((box) => [box.id, box]));
  const boxes = [];
  for (const id of new Set([...old.keys(), ...now.keys()])) {
    const [was, is] = [old.get(id) ?? null, now.get(id) ?? null];
    if (!sameBox(was, is)) boxes.push({ id, before: was, after: is });
  }
  return { boxes, checked: before.checked === after.checked ? null : [before.checked, after.checked] };
}

export const isEmpty = (patch) => patch.boxes.length === 0 && patch.checked === null;

/** The opposite change. */
export function invert(patch) {
  return {
    boxes: patch.boxes.map(({ id, before, after }) => ({ id, before: after, after: before })),
    checked: patch.checked && [patch.checked[1], patch.checked[0]],
  };
}

/**
 * Apply a change to a state other than the original one.
 *
 * A box that differs from its state before the change was changed by another tab, and is not modified.
 * @returns {{boxes: object[], checked: boolean, conflicts: number}}
 */
export function apply(state, patch) {
  const boxes = new Map(state.boxes.map((box) => [box.id, box]));
  let conflicts = 0;
  for (const { id, before, after } of patch.boxes) {
    const current = boxes.get(id) ?? null;
    if (sameBox(current, after)) continue;
    if (!sameBox(current, before)) conflicts += 1;
    else if (after) boxes.set(id, after);
    else boxes.delete(id);
  }
  return { boxes: [...boxes.values()], checked: patch.checked ? patch.checked[1] : state.checked, conflicts };
}
