// All commands with their keys: the source of the keyboard shortcuts, the hints of the buttons, and the help.

const ZOOM = 1.25;
const FINE = 0.02;
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Pixels that an arrow key moves a box: one, or ten with Shift. */
const arrow = (event) => STEPS[event.key].map((step) => step * (event.shiftKey ? 10 : 1));

/**
 * List the commands with `group`, `keys` and `title`; commands of the keyboard also have `id` and
 * `run(event, commands)`.
 *
 * Keys are written as in the help, separated by blanks. If a command has many keys, `pattern` matches them.
 */
export function makeCommands(app) {
  const { canvas, model } = app;
  const threshold = (step) => model.setThreshold(Math.round((model.threshold + step) * 100) / 100);
  const toggleLabels = () => {
    canvas.showLabels = !canvas.showLabels;
    canvas.redraw();
  };
  const chooseClass = (event) => app.chooseClassAt(Number(event.key) - 1);
  const focus = (selector) => document.querySelector(selector).focus();
  const groups = {
    Find: [
      ['find', 'F', 'Find like this on the image; the selected box becomes an exemplar', () => app.find()],
      ['find-all', 'Shift+F', 'Find on all images that are not checked', () => app.findOnAll()],
      ['cancel', 'Shift+Escape', 'Cancel the search', () => app.cancel()],
      ['exemplar', 'E', 'Make the selected box an exemplar', () => app.addExemplar()],
      [
        'negative',
        'Shift+E',
        'Make it a negative exemplar, which must not be mistaken for the class',
        () => app.addExemplar(true),
      ],
      ['lower', '[', 'Lower the threshold', () => threshold(-FINE)],
      ['raise', ']', 'Raise the threshold', () => threshold(FINE)],
    ],
    Decide: [
      ['accept', 'A Enter', 'Accept the selected proposal', () => app.accept()],
      ['reject', 'X Delete Backspace', 'Reject the selected proposal, or delete the box', () => app.reject()],
      ['accept-all', 'Shift+A', 'Accept all visible proposals', () => app.decideAll('accepted')],
      ['reject-all', 'Shift+X', 'Reject all visible proposals', () => app.decideAll('rejected')],
      ['check', 'C', 'Mark the image as finished and open the next; again: reopen it', () => app.check()],
      ['undo', 'Ctrl+Z', 'Undo', () => app.undo()],
      ['redo', 'Ctrl+Shift+Z Ctrl+Y', 'Redo', () => app.redo()],
    ],
    Boxes: [
      ['class', '1…9', 'Choose the class of the selected and of new boxes', chooseClass, /^[1-9]$/],
      ['draw', 'B', 'Add a box in the middle; then move and resize it', () => app.drawInTheMiddle()],
      ['next-box', '.', 'Select the next box', () => app.cycleBox(1)],
      ['previous-box', ',', 'Select the previous box', () => app.cycleBox(-1)],
      [
        'nudge',
        '← ↑ ↓ →',
        'Move the selected box by a pixel, with Shift by ten; without a box, move the image',
        (event) => app.nudge(...arrow(event)),
        /^(Shift\+)?Arrow/,
      ],
      [
        'stretch',
        'Alt+←↑↓→',
        'Move the right and lower edge',
        (event) => app.stretch(...arrow(event)),
        /^Alt\+(Shift\+)?Arrow/,
      ],
      ['deselect', 'Escape', 'Stop drawing; deselect', () => canvas.cancel() || app.selectBox(null)],
      ['labels', 'L', 'Show or hide labels', toggleLabels],
    ],
    Images: [
      ['next', 'J PageDown', 'Next image', () => app.next()],
      ['previous', 'K PageUp', 'Previous image', () => app.previous()],
      ['next-unchecked', 'N', 'Next image that is not checked', () => app.nextUnchecked()],
      ['search', '/', 'Filter images by name', () => focus('#search')],
      ['new-class', 'Shift+C', 'New class', () => focus('#classes input[type=text]')],
      ['import', 'I', 'Import annotations', () => app.importFile()],
      ['export', 'Shift+S', 'Export annotations', () => app.exportAll()],
      ['help', '?', 'Show this help', (event, commands) => app.help(commands)],
    ],
    View: [
      ['zoom-in', '+ =', 'Zoom in', () => canvas.zoom(ZOOM)],
      ['zoom-out', '-', 'Zoom out', () => canvas.zoom(1 / ZOOM)],
      ['fit', '0', 'Show the whole image', () => canvas.fit()],
      [null, 'Wheel', 'Zoom at the pointer; with Shift, move sideways'],
      [null, 'Space+drag', 'Move the image; the middle button does the same'],
      [null, 'Drag', 'Draw a box; on the selected box, move or resize it'],
      [null, 'Alt+drag', 'Draw a box inside the selected box'],
    ],
  };
  const named = ([group, members]) =>
    members.map(([id, keys, title, run, pattern]) => ({ group, id, keys, title, run, pattern }));
  return Object.entries(groups).flatMap(named);
}
