// Map keys to commands.

import { isDialogOpen } from './dialogs.js';

/** Name of a key press as commands write it, such as `Ctrl+Shift+Z` or `?`. */
function pressed(event) {
  const { key } = event;
  const isLetter = /^[a-z]$/i.test(key);
  const isNamed = key.length > 1;
  const modifiers = [];
  if (event.ctrlKey || event.metaKey) modifiers.push('Ctrl');
  if (event.altKey) modifiers.push('Alt');
  // Shift is part of a character such as `?`, and a separate modifier for letters and named keys.
  if (event.shiftKey && (isLetter || isNamed)) modifiers.push('Shift');
  return [...modifiers, isLetter ? key.toUpperCase() : key].join('+');
}

/** Whether an element processes the key itself. */
function isTakenBy(element, key) {
  if (element.matches('input[type=range]')) return /Arrow|Page|Home|End/.test(key);
  if (element.matches('input, textarea, select')) return true;
  return element.matches('button, a, summary') && (key === 'Enter' || key === ' ');
}

/** Run commands by their keys, and move the image while the space bar is held. */
export function listenToKeys(commands, canvas) {
  const byKey = new Map();
  for (const command of commands) {
    if (command.run && !command.pattern) for (const key of command.keys.split(' ')) byKey.set(key, command);
  }
  const patterns = commands.filter((command) => command.pattern);
  document.addEventListener('keydown', (event) => {
    if (isDialogOpen() || event.isComposing) return;
    if (event.target.matches?.('input') && event.key === 'Escape') event.target.blur();
    if (isTakenBy(event.target, event.key)) return;
    if (event.key === ' ') {
      canvas.setPanKey(true);
      event.preventDefault();
      return;
    }
    const name = pressed(event);
    const command = byKey.get(name) ?? patterns.find(({ pattern }) => pattern.test(name));
    if (!command) return;
    event.preventDefault();
    command.run(event, commands);
  });
  document.addEventListener('keyup', (event) => {
    if (event.key === ' ') canvas.setPanKey(false);
  });
  window.addEventListener('blur', () => canvas.setPanKey(false));
}
